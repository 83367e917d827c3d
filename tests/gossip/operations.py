"""What the players of `modelled` do, an operation each."""

from __future__ import annotations

from collections.abc import Callable

from modelled import Player


def appear(player: Player) -> None:
    """Show itself to the others."""
    player.transport.appear()


def meet(player: Player) -> None:
    """See who is there."""
    player.outbox.refresh(player.merge)


def poll(player: Player) -> None:
    """Read the inbox."""
    player.fed |= player.outbox.poll(player.merge) > 0


def bury(player: Player) -> None:
    """Notice the dead."""
    player.outbox.bury(player.merge)


def push(seat: int, whole: bool = False) -> Callable[[Player], object]:
    """Send half of the mass, or all of it, to whoever has the seat."""
    return lambda player: player.push(seat, whole)
