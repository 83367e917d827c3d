"""Whom a gossip worker sends to: one small function a topology. Imports gossip.layout and gossip.outbox.

A chooser gets the peers a message may go to now (living, active, reading their mail), the worker's own seat, the number
of seats in use, how many messages it has sent, and its generator; it returns one of the peers or None.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gossip.outbox import Peer

Chooser = Callable[[Sequence[Peer], int, int, int, random.Random], "Peer | None"]


def uniform(peers: Sequence[Peer], seat: int, workers: int, sent: int, generator: random.Random) -> Peer | None:
    """Any peer with equal probability (thesis alg. 3: r uniform among the others)."""
    return peers[int(generator.random() * len(peers))] if peers else None


def ring(peers: Sequence[Peer], seat: int, workers: int, sent: int, generator: random.Random) -> Peer | None:
    """The next living seat in cyclic order."""
    return min(peers, key=lambda peer: (peer.member.seat - seat) % workers, default=None)


def exponential(peers: Sequence[Peer], seat: int, workers: int, sent: int, generator: random.Random) -> Peer | None:
    """The first living seat at or after distance 1, 2, 4, ... in turn: log2(M) sends reach across the whole ring."""
    distance = 1 << (sent % max(1, (workers - 1).bit_length()))
    return min(peers, key=lambda peer: (peer.member.seat - seat - distance) % workers, default=None)


CHOOSERS: dict[str, Chooser] = {"uniform": uniform, "ring": ring, "exponential": exponential}
