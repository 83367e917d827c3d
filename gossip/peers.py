"""Whom a gossip worker sends to: one small function a topology. Imports configs.base.

A chooser gets the seats a message may go to now, in ascending order and without the worker's own (living, active,
reading their mail), the worker's seat, how many messages it has sent, and its generator; it returns one of the seats,
or None when there are none. `adaptive` also chooses the time and is a class of its own (gossip.adaptive).
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Sequence
from typing import Any

from configs.base import check_call, import_callable, suggestion

Chooser = Callable[[Sequence[int], int, int, random.Random], "int | None"]
ADAPTIVE = "adaptive"
HIERARCHICAL = "hierarchical"


def uniform(seats: Sequence[int], seat: int, sent: int, generator: random.Random) -> int | None:
    """Any other with equal probability (thesis alg. 3: r uniform among the others)."""
    return seats[int(generator.random() * len(seats))] if seats else None


def ring(seats: Sequence[int], seat: int, sent: int, generator: random.Random) -> int | None:
    """The next one in cyclic order."""
    return seats[bisect(seats, seat) % len(seats)] if seats else None


def exponential(seats: Sequence[int], seat: int, sent: int, generator: random.Random) -> int | None:
    """The one at cyclic distance 1, 2, 4, ... in turn: log2(M) sends reach across the whole ring."""
    if not seats:
        return None
    distance = 1 << sent % len(seats).bit_length()
    return seats[(bisect(seats, seat) + distance - 1) % len(seats)]


class Hierarchical:
    """Mostly one of the own host, where messages cost a copy; with probability `leave` one of the other hosts.

    Args:
        leave: probability of leaving the host, where there are others.
        near: whether the worker on a seat is on this host.
    """

    def __init__(self, leave: float, near: Callable[[int], bool]) -> None:
        self._leave, self._near = leave, near

    def __call__(self, seats: Sequence[int], seat: int, sent: int, generator: random.Random) -> int | None:
        near = [other for other in seats if self._near(other)]
        far = [other for other in seats if other not in near]
        leaves = bool(far) and (not near or generator.random() < self._leave)
        return uniform(far if leaves else near, seat, sent, generator)


CHOOSERS: dict[str, Chooser] = {"uniform": uniform, "ring": ring, "exponential": exponential}


def check_peers(peers: str | Chooser) -> str | Chooser:
    """The option `peers`, if it is one of the names, `package.module:function`, or a function.

    Raises:
        ValueError: it is none of them.
    """
    names = [*CHOOSERS, HIERARCHICAL, ADAPTIVE]
    if not callable(peers) and peers not in names and ":" not in peers:
        raise ValueError(
            f"got {peers!r}, expected one of {', '.join(names)} or package.module:function{suggestion(peers, names)}"
        )
    return peers


def chooser(peers: str | Chooser, leave_host: float = 0.0, near: Callable[[int], bool] = lambda seat: True) -> Chooser:
    """The function behind the option `peers`.

    Args:
        leave_host: of `hierarchical`.
        near: whether the worker on a seat is on this host; in a simulation all are.

    Raises:
        ValueError: a function of the user's own cannot be found, or does not take what choosers are given.
    """
    if isinstance(peers, str) and peers in CHOOSERS:
        return CHOOSERS[peers]
    if peers == HIERARCHICAL:
        return Hierarchical(leave_host, near)
    function: Any = peers if callable(peers) else import_callable("peers", peers, "a function")
    check_call("peers", str(peers), function, (1, 2), 0, 0, random.Random(0))
    return _checked(function, peers if isinstance(peers, str) else getattr(peers, "__name__", repr(peers)))


def _checked(function: Chooser, name: str) -> Chooser:
    def choose(seats: Sequence[int], seat: int, sent: int, generator: random.Random) -> int | None:
        found = function(seats, seat, sent, generator)
        if found is not None and found not in seats:
            raise ValueError(f"peers {name}: got {found!r}, expected None or one of the given seats {[*seats]}")
        return found

    return choose
