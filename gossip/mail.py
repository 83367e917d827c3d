"""Names and bookkeeping of messages, as the queue protocol and its users speak of them.

Imports gossip.layout, gossip.mass and gossip.works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gossip import layout
from gossip.layout import Member, Words
from gossip.mass import TOTAL
from gossip.transports.base import Slot
from gossip.works import Event

_MOST_STEPS = 1 << 48


class Letter(NamedTuple):
    """One message's name: it is the `sequence`-th that its sender wrote to the receiver's seat."""

    sender: Member
    receiver: Member
    sequence: int


Write = Callable[[Slot, Letter], Event | None]
"""Copies this member's weights into a slot; the message is announced after the event behind it, None if it is over."""
Merge = Callable[[Slot, float, int, Letter], Event | None]
"""Merges a slot's vector into the weights with the given weight in (0, 1]; then come the sender's step and the name.

It is acknowledged after the event behind it, None if it is over."""


@dataclass(slots=True)
class Mail:
    """A message of ours that its receiver has not acknowledged yet."""

    sequence: int
    slot: int
    place: int
    """The slot as it is announced: with the format of what lies in it."""
    shares: int
    step: int


@dataclass(slots=True)
class Peer:
    """Another incarnation as seen from here: where to look for its mail, and ours to it."""

    member: Member
    words: Words
    inbox: int
    """Index in its words of the announcement addressed to our seat."""
    receipt: int
    """Index in its words of the receipt for our mail."""
    seen: int = 0
    """The last announcement handled."""
    pending: Mail | None = None
    sound: bool = True
    """Whether what it announced has made sense so far; if not, it is neither read nor chosen any more."""
    lost: bool = False
    """Whether its last message was out of reach while it lived: it may have been ending, its memory before its lock."""

    def state(self) -> int:
        """Where it stands in its life cycle, as it last said itself."""
        return self.words[layout.STATE]


def check(shares: int, step: int, held: int) -> None:
    """Whether a message can be what it says it is.

    Args:
        held: shares of its receiver.

    Raises:
        ValueError: there is not that much mass, or nobody can have made that many steps.
    """
    if not 0 < shares <= TOTAL - held:
        raise ValueError(f"got {shares:,} shares beside {held:,} held, expected 1 to {TOTAL - held:,}")
    if step > _MOST_STEPS:
        raise ValueError(f"got step {step:,}, expected at most {_MOST_STEPS:,}")


@dataclass(slots=True)
class Counters:
    """What a member's queue did since it started."""

    sent: int = 0
    received: int = 0
    returned: int = 0
    given_up: int = 0
    skipped_unread: int = 0
    skipped_no_slot: int = 0
    skipped_bandwidth: int = 0
