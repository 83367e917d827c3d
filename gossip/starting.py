"""How the founders of a job come to the same start. Imports gossip.layout and the transports.

Nobody waits during training; before it, founders wait for each other's processes, so that the first to come up does not
train alone for the seconds the others still need.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from gossip import layout
from gossip.layout import Member, State
from gossip.transports.cluster import Cluster
from gossip.transports.shared_memory import SharedMemory

_log = logging.getLogger("gosgd")


def agree_on_weights(
    transport: SharedMemory, vector: Tensor, keep: bool, deadline: float, interrupted: Callable[[], bool]
) -> None:
    """Give all founders the same initial weights: those of the lowest seat that is there to offer them.

    Args:
        vector: [D]; replaced unless this worker's weights are the ones agreed on.
        keep: whether to keep one's own weights (of a run that is resumed) and at most offer them.
        deadline: on the monotonic clock; then those that have not appeared are no longer waited for.
        interrupted: asked while waiting.

    Raises:
        ValueError: another worker runs another model.
    """
    initial = transport.directory.path / "initial"
    while not initial.exists() and not interrupted():
        lowest = _lowest_founder(transport, wait=time.monotonic() < deadline)
        if keep and not lowest:
            return
        if lowest:
            draft = transport.file(transport.me, "initial")
            transport.tensor(draft, transport.dimension, create=True).copy_(vector)
            _link(draft, initial)
        else:
            if isinstance(transport, Cluster) and _lowest_here(transport):
                _ask(transport, initial)
            time.sleep(0.001)
    if initial.exists():
        check_models(transport)
        agreed = transport.tensor(initial, transport.dimension)
        if isinstance(transport, Cluster):
            transport.offer(agreed)
        if not keep:
            vector.copy_(agreed)


def _link(draft: Path, initial: Path) -> None:
    try:
        os.link(draft, initial)  # whole or not at all, and only the first
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _lowest_here(transport: Cluster) -> bool:
    """Whether no lower member is on this host, or on its way: then this one fetches the weights from another."""
    return not any(
        member < transport.me and transport.together(member, transport.me) and not transport.dead(member)
        for member in transport.members()
    )


def _ask(transport: Cluster, initial: Path) -> None:
    draft = transport.file(transport.me, "initial")
    if not draft.exists():
        place = transport.tensor(draft, transport.dimension, create=True)
        transport.ask(place, lambda: _link(draft, initial))


def _lowest_founder(transport: SharedMemory, wait: bool) -> bool:
    counts = transport.generations()
    for seat in range(transport.me.seat):
        if (wait and _due(transport, seat, counts)) or (counts[seat] == 1 and not transport.dead(Member(seat, 0))):
            return False
    return True


def wait_for_founders(transport: SharedMemory, deadline: float, interrupted: Callable[[], bool]) -> None:
    """Wait until every founder's seat has been taken by somebody who is ready, died, or is joining.

    Raises:
        ValueError: another worker runs another model.
    """
    while not interrupted():
        check_models(transport)
        counts = transport.generations()
        late = [
            seat
            for seat in range(transport.directory.founders)
            if _due(transport, seat, counts) or (counts[seat] and _starting(transport, Member(seat, counts[seat] - 1)))
        ]
        if not late or transport.claimant("started") is not None:
            return
        if time.monotonic() > deadline:
            _log.warning("worker %d: starts without workers %s, which have not come up", transport.me.seat, late)
            return
        time.sleep(0.001)


def check_models(transport: SharedMemory) -> None:
    """Refuse a start among living workers that run another model; each of them refuses it likewise.

    Raises:
        ValueError: one does.
    """
    for member in transport.members():
        if member != transport.me:
            transport.check(member)


def _due(transport: SharedMemory, seat: int, counts: Sequence[int]) -> bool:
    """Whether a founder is on its way."""
    return counts[seat] == 0 and not transport.directory.given_up(seat)


def _starting(transport: SharedMemory, member: Member) -> bool:
    return transport.open(member)[layout.STATE] == State.STARTING and not transport.dead(member)
