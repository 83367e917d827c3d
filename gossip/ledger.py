"""The mass of a whole job read off its members' words. Imports gossip.layout, gossip.mass and the transport interface.

What a member holds is not stored anywhere: it is what it was founded with, plus what its receipts say it received,
less what its announcements say it sent. Each of those changes by one store, so the books balance at every instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gossip import layout
from gossip.layout import FLAG, MASK, Member, State, Words
from gossip.mass import Ledger, share_out


class Books(Protocol):
    """What an auditor needs of a job; every transport offers it."""

    seats: int

    def generations(self) -> Sequence[int]:
        """Per seat, how many members have taken it."""

    def open(self, member: Member) -> Words:
        """The control words of any member."""

    def dead(self, member: Member) -> bool:
        """Whether the member's process is proven to be gone."""


def balance(words: Mapping[Member, Words], alive: set[Member], seats: int, founders: int) -> Ledger:
    """The ledger of a consistent set of words.

    Args:
        words: control words of every member that ever was.
        alive: members that can still act.
        seats: seats of the job.
        founders: M, the number of members the mass was first shared out to; one that never appeared counts as lost.
    """
    held: dict[tuple[int, int], int] = {}
    in_flight = lost = taken = 0
    for seat, genesis in enumerate(share_out(founders)):
        if Member(seat, 0) not in words:
            lost += genesis
    for member, own in words.items():
        amount = own[layout.GENESIS] + own[layout.TAKEN]
        taken += own[layout.TAKEN]
        for seat in range(seats):
            receipt = layout.receipt(seats, seat)
            turn = bool(own[receipt + layout.ACKNOWLEDGED] & FLAG)
            amount += own[receipt + layout.RECEIVED + turn] if own[receipt + layout.ACKNOWLEDGED] else 0
            sent, unread, receiver = _post(words, member, seat, seats)
            amount -= sent
            if unread and (member in alive or receiver in alive):
                in_flight += unread
            else:
                lost += unread
        amount &= MASK
        if member in alive:
            held[member] = amount
        else:
            lost += amount
    return Ledger(held, in_flight, lost - taken, taken)


def _post(words: Mapping[Member, Words], member: Member, seat: int, seats: int) -> tuple[int, int, Member | None]:
    """(shares sent to a seat in all, shares of them still unread, by whom)."""
    own = words[member]
    word = own[layout.post(seat) + layout.COMMIT]
    sequence = layout.sequence_of(word)
    if sequence == 0:
        return 0, 0, None
    block = layout.details(seat, sequence)
    sent, shares = own[block + layout.SENT], own[block + layout.MASS]
    if word & FLAG:
        return sent - shares, 0, None
    receiver = Member(seat, layout.generation_of(word))
    if receiver not in words:
        return sent, shares, receiver
    receipt = words[receiver][layout.receipt(seats, member.seat) + layout.ACKNOWLEDGED] & ~FLAG
    read = receipt == layout.pack(sequence, member.generation)
    return sent, 0 if read else shares, receiver


def audit(books: Books, founders: int, attempts: int = 100) -> Ledger:
    """The ledger of a running job, from a snapshot that no transfer of mass interrupted.

    The words are copied until two successive copies agree on every announcement and receipt; between such copies
    nothing moved, and what a selected details block or running total says cannot have changed either.

    Raises:
        TimeoutError: mass moved during each of `attempts` copies.
    """
    size = layout.size(books.seats)
    before: tuple[object, ...] | None = None
    for _ in range(attempts):
        members = [Member(seat, age) for seat, count in enumerate(books.generations()) for age in range(count)]
        words = {member: _copy(books.open(member), size) for member in members}
        moves = tuple((member, *_moves(own, books.seats)) for member, own in words.items())
        if moves == before:
            alive = {m for m in members if words[m][layout.STATE] != State.GONE and not books.dead(m)}
            return balance(words, alive, books.seats, founders)
        before = moves
    raise TimeoutError(f"mass kept moving during {attempts} copies of the control words; try again")


def extinct(ledger: Ledger) -> bool:
    """Whether no living member holds mass and none is on its way to one."""
    return ledger.in_flight == 0 and not any(ledger.held.values())


def _copy(words: Words, size: int) -> list[int]:
    if isinstance(words, memoryview):
        return words[:size].tolist()
    return [words[index] for index in range(size)]


def _moves(own: Sequence[int], seats: int) -> list[int]:
    """The words by which mass moves: announcements, receipts, and shares taken after an extinction."""
    posts = [own[layout.post(seat) + layout.COMMIT] for seat in range(seats)]
    receipts = [own[layout.receipt(seats, seat) + layout.ACKNOWLEDGED] for seat in range(seats)]
    return [own[layout.TAKEN], own[layout.GENESIS], *posts, *receipts]
