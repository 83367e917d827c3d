"""Weights shown to whoever wants to look: each member publishes a snapshot now and then, readers never hold it up.

Imports gossip.layout and torch. Two buffers are used in turn; a reader checks afterwards that the
writer did not come round to the buffer it was reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gossip import layout
from gossip.fence import load as load_fence
from gossip.layout import Member, Words


class Published(NamedTuple):
    """One member's snapshot: its weights [D], its step, and the shares it held (0 for methods without mass)."""

    member: Member
    vector: Tensor
    step: int
    mass: int


class Shown(Protocol):
    """What there has to be of a member that publishes, as of the shared-memory transport."""

    me: Member
    words: Words

    def open(self, member: Member) -> Words:
        """A member's control words."""

    def publication(self, member: Member, create: bool = False) -> Tensor:
        """A member's two snapshots [2, D]."""


class Publisher:
    """Publishes this member's weights and reads everybody's.

    Args:
        transport: of this member; two more vectors of shared memory are taken.
    """

    def __init__(self, transport: Shown) -> None:
        self._transport = transport
        self._fence = load_fence()
        self._buffers = transport.publication(transport.me, create=True)

    def publish(self, vector: Tensor, step: int, mass: int = 0) -> None:
        """Show a snapshot of `vector` [D] as of `step`."""
        words = self._transport.words
        sequence = words[layout.PUBLISHED] + 1
        words[layout.PUBLISHING] = sequence
        self._fence()
        self._buffers[sequence & 1].copy_(vector)
        block = layout.PUBLICATION + 2 * (sequence & 1)
        words[block], words[block + 1] = step, mass
        self._fence()
        words[layout.PUBLISHED] = sequence

    def read(self, member: Member, attempts: int = 3) -> Published | None:
        """A member's newest snapshot, or None if it has none or publishes faster than it can be copied."""
        words = self._transport.open(member)
        try:
            buffers = self._transport.publication(member)  # of a member elsewhere this has it brought here
        except (FileNotFoundError, ValueError):  # none yet, gone, or not as long as a snapshot
            return None
        for _ in range(attempts):
            sequence = words[layout.PUBLISHED]
            if sequence == 0:
                return None
            self._fence()
            vector = buffers[sequence & 1].clone()
            block = layout.PUBLICATION + 2 * (sequence & 1)
            step, mass = words[block], words[block + 1]
            self._fence()
            if words[layout.PUBLISHING] <= sequence + 1:
                return Published(member, vector, step, mass)
        return None


def consensus_of(published: Sequence[Published]) -> Tensor:
    """w~ = sum lambda_m w_m / sum lambda_m over snapshots; the plain mean where nobody has mass.

    Weights of 16 bits are added up in float32: rounded at every term, equal ones would not stay equal.

    Args:
        published: at least one snapshot.

    Returns:
        The consensus weights [D].
    """
    masses = [float(one.mass) for one in published]
    if not any(masses):
        masses = [1.0] * len(published)
    first = published[0].vector
    total = torch.zeros_like(first, dtype=torch.promote_types(first.dtype, torch.float32))
    for one, mass in zip(published, masses, strict=True):
        total.add_(one.vector, alpha=mass / sum(masses))
    return total.to(first.dtype)
