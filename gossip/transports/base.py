"""What the queue protocol needs from the place where members' words and slots live. Imports gossip.layout only.

A transport knows nothing of mass or announcements: it hands out arrays of words, slots for whole weight vectors, and
the one fact the protocol may act on: proof that a member's process is gone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from gossip.layout import Member, Words

Slot = Any
"""A preallocated place for one weight vector: a tensor [D] for real transports, opaque to the protocol."""


class SlotLostError(LookupError):
    """A slot went down with its owner before this member had ever looked into it."""


class Transport(ABC):
    """One member's view of a job's shared memory.

    Attributes:
        me: this incarnation.
        seats: how many members can be alive at once.
        words: this member's own control words, the only ones it writes.
    """

    me: Member
    seats: int
    words: Words

    @abstractmethod
    def generations(self) -> Sequence[int]:
        """Per seat, one more than the generation of its newest member; 0 for a seat nobody took yet. Cheap."""

    @abstractmethod
    def open(self, member: Member) -> Words:
        """The control words of any member that ever was, dead ones included: the ledger still needs them."""

    def check(self, member: Member) -> None:  # noqa: B027 (where nobody can bring another model there is nothing to do)
        """Refuse a living member that runs another model.

        Raises:
            ValueError: it does.
        """

    @abstractmethod
    def slot(self, member: Member, index: int) -> Slot:
        """Slot `index` of a member, for reading, or for writing where it is this member's own."""

    @abstractmethod
    def slots(self) -> int:
        """How many slots this member owns now; grows by itself some time after `grow`."""

    @abstractmethod
    def grow(self) -> None:
        """Ask for one more slot without waiting for it. Does nothing while an earlier request is under way."""

    @abstractmethod
    def dead(self, member: Member) -> bool:
        """Whether the member's process is proven to be gone. Never true of a process that can still act."""

    def reachable(self, member: Member) -> bool:
        """Whether this member's words and slots can be read now; while they cannot, nothing is known of its life."""
        return True

    def absent(self, member: Member) -> bool:
        """Whether a member has been out of reach for so long that nobody should wait for it before leaving."""
        return False

    def settled(self, member: Member) -> bool:
        """Whether the last receipts of a member that is gone are known; else mail to it can never be taken back."""
        return True

    def together(self, one: Member, other: Member) -> bool:
        """Whether what one of two members leaves behind can still be read by the other when it is gone."""
        return True

    def auditable(self) -> bool:
        """Whether all words of all members are known here, so that the ledger can be read off them."""
        return True

    def place(self, slot: int, whole: bool, receiver: Member) -> int:
        """How a slot is to be announced.

        Args:
            whole: whether the vector has to lie there as precise as it is.
            receiver: who is to read it there.
        """
        return slot

    @abstractmethod
    def discard(self, member: Member) -> None:
        """Free the slots of a member whose mail has all been read. Harmless when somebody did so already."""

    @abstractmethod
    def claim(self, name: str) -> bool:
        """Whether this member is the first of the job to claim `name`; at most one ever is."""

    @abstractmethod
    def claimant(self, name: str) -> Member | None:
        """Who claimed `name`, or None."""

    @abstractmethod
    def close(self) -> None:
        """Release what this view holds. The member's segment stays while its mail is unread."""
