"""Members as threads of one process: the protocol without files or further processes, as deterministic tests need it.

Imports gossip.layout, torch and the transport interface. Words are 64-bit integers in plain memory, slots are tensors.
A thread cannot be killed, so a death is declared, after the thread that acted for the member has stopped acting.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from gossip import layout
from gossip.layout import Member, State, Words
from gossip.transports.base import Transport


class Meeting:
    """What the members of a job in one process share; an auditor looks at it directly.

    Args:
        seats: how many members can be alive at once.

    Attributes:
        sides: of each seat; members on different sides cannot reach each other.
    """

    def __init__(self, seats: int) -> None:
        self.seats = seats
        self.sides = [0] * seats
        self._board = [0] * seats
        self._taken = [0] * seats
        self._words: dict[Member, memoryview] = {}
        self._slots: dict[Member, list[Tensor]] = {}
        self._dead: set[Member] = set()
        self._claims: dict[str, Member] = {}
        self._lock = threading.Lock()

    def generations(self) -> Sequence[int]:
        """Per seat, how many members have appeared on it."""
        return self._board

    def open(self, member: Member) -> Words:
        """A member's control words."""
        return self._words[member]

    def dead(self, member: Member) -> bool:
        """Whether the member was declared dead, or has closed its view."""
        return member in self._dead

    def kill(self, member: Member) -> None:
        """Declare a member dead; the caller vouches that its thread will not act any more."""
        self._dead.add(member)

    def slots(self, member: Member) -> list[Tensor]:
        """A member's slots, each [D]; none once they are discarded."""
        return self._slots.get(member, [])

    def take(self, seat: int) -> Member:
        """Become the next member on a seat.

        Raises:
            ValueError: the seat does not exist, or a living member has it.
        """
        if not 0 <= seat < self.seats:
            raise ValueError(f"got seat {seat}, expected 0 to {self.seats - 1}")
        with self._lock:
            member = Member(seat, self._taken[seat])
            if member.generation and not self.dead(Member(seat, member.generation - 1)):
                raise ValueError(f"got seat {seat}, which a living member has; expected it to be closed or killed")
            self._taken[seat] += 1
            self._words[member] = memoryview(bytearray(layout.size(self.seats) * layout.WORD)).cast("Q")
            self._slots[member] = []
        return member

    def appear(self, member: Member) -> None:
        """Show a member to the others."""
        self._board[member.seat] = member.generation + 1

    def discard(self, member: Member) -> None:
        """Drop a member's slots."""
        self._slots.pop(member, None)

    def claim(self, name: str, member: Member) -> bool:
        """Whether `member` is the first to claim `name`."""
        with self._lock:
            if name in self._claims:
                return False
            self._claims[name] = member
            return True

    def claimant(self, name: str) -> Member | None:
        """Who claimed `name`."""
        return self._claims.get(name)


class InProcess(Transport):
    """One member of a job whose members are threads.

    Args:
        meeting: the job.
        seat: the seat to take.
        dimension: D, elements of a weight vector.
        dtype: of a weight vector.
        slots: how many messages of ours may be unread at once before sends are skipped.

    Raises:
        ValueError: the seat does not exist, or a living member has it.
    """

    def __init__(
        self, meeting: Meeting, seat: int, dimension: int, dtype: torch.dtype = torch.float32, slots: int = 4
    ) -> None:
        self.meeting, self.dimension, self.dtype = meeting, dimension, dtype
        self.seats = meeting.seats
        self.me = meeting.take(seat)
        self.words = meeting.open(self.me)
        for _ in range(slots):
            self.grow()
        self.words[0] = layout.MAGIC
        self.words[layout.DIMENSION] = dimension
        self.words[layout.STATE] = State.STARTING

    def appear(self) -> None:
        """Show this member to the others; its words must say by now what it holds."""
        self.meeting.appear(self.me)

    def generations(self) -> Sequence[int]:
        """Per seat, how many members have appeared on it."""
        return self.meeting.generations()

    def open(self, member: Member) -> Words:
        """A member's control words."""
        return self.meeting.open(member)

    def slot(self, member: Member, index: int) -> Tensor:
        """Slot `index` of a member as a tensor [D]."""
        return self.meeting.slots(member)[index]

    def slots(self) -> int:
        """How many slots this member owns."""
        return len(self.meeting.slots(self.me))

    def grow(self) -> None:
        """Make one more slot, at once: plain memory needs no reservation."""
        self.meeting.slots(self.me).append(torch.zeros(self.dimension, dtype=self.dtype))

    def dead(self, member: Member) -> bool:
        """Whether the member was declared dead, or has closed its view."""
        return self.meeting.dead(member)

    def reachable(self, member: Member) -> bool:
        """Whether the other member is on this one's side."""
        return self.meeting.sides[member.seat] == self.meeting.sides[self.me.seat]

    def discard(self, member: Member) -> None:
        """Drop a member's slots."""
        self.meeting.discard(member)

    def claim(self, name: str) -> bool:
        """Whether this member is the first to claim `name`."""
        return self.meeting.claim(name, self.me)

    def claimant(self, name: str) -> Member | None:
        """Who claimed `name`."""
        return self.meeting.claimant(name)

    def close(self) -> None:
        """From now on this member counts as gone."""
        self.meeting.kill(self.me)
