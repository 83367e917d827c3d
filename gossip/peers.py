"""Whom a gossip worker sends to: one small function a topology. Imports gossip.mail.

A chooser gets the peers a message may go to now (living, active, reading their mail), the worker's own seat, how many
messages it has sent, and its generator; it returns one of the peers, or None when there are none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gossip.mail import Peer

Chooser = Callable[[Sequence[Peer], int, int, random.Random], "Peer | None"]


def uniform(peers: Sequence[Peer], seat: int, sent: int, generator: random.Random) -> Peer | None:
    """Any peer with equal probability (thesis alg. 3: r uniform among the others)."""
    return peers[int(generator.random() * len(peers))] if peers else None


def ring(peers: Sequence[Peer], seat: int, sent: int, generator: random.Random) -> Peer | None:
    """The next living seat in cyclic order."""
    return _after(peers, seat)[0] if peers else None


def exponential(peers: Sequence[Peer], seat: int, sent: int, generator: random.Random) -> Peer | None:
    """The living seat at cyclic distance 1, 2, 4, ... in turn: log2(M) sends reach across the whole ring."""
    if not peers:
        return None
    distance = 1 << sent % len(peers).bit_length()
    return _after(peers, seat)[distance - 1]


def _after(peers: Sequence[Peer], seat: int) -> list[Peer]:
    """Peers in cyclic order, beginning behind `seat`."""
    return sorted(peers, key=lambda peer: (peer.member.seat < seat, peer.member.seat))


CHOOSERS: dict[str, Chooser] = {"uniform": uniform, "ring": ring, "exponential": exponential}
