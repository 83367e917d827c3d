"""The mass of a whole job read off its members' words. Imports gossip.layout, gossip.mass, gossip.fence.

What a member holds is not stored anywhere: it is what it was founded with, plus what its receipts say it received,
less what its announcements say it sent. Each of those changes by one store, so the books balance at every instant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gossip import layout
from gossip.fence import load as load_fence
from gossip.layout import FLAG, GIVEN_UP, MASK, Member, State, Words
from gossip.mass import SCANT, Ledger, share_out


class Books(Protocol):
    """What an auditor needs of a job; every transport offers it."""

    seats: int

    def generations(self) -> Sequence[int]:
        """Per seat, how many members have taken it."""

    def open(self, member: Member) -> Words:
        """The control words of any member."""

    def dead(self, member: Member) -> bool:
        """Whether the member's process is proven to be gone."""


def _always(one: Member, other: Member) -> bool:
    return True


def balance(
    words: Mapping[Member, Words],
    alive: set[Member],
    seats: int,
    founders: int,
    together: Callable[[Member, Member], bool] = _always,
) -> Ledger:
    """The ledger of a consistent set of words.

    Args:
        words: control words of every member that ever was.
        alive: members that can still act.
        seats: seats of the job.
        founders: M, the number of members the mass was first shared out to; the shares of one that died before it
            wrote them down count as lost.
        together: whether two members are on one host. Mail of a dead member to another host is lost, and so is mail to
            a member elsewhere whose last receipts went down with its host.
    """
    held: dict[tuple[int, int], int] = {}
    in_flight = lost = taken = awaited = 0
    apart: Counter[tuple[int, int]] = (
        Counter()
    )  # per pair of seats: sent, less received, less what is known to be unread
    doubtful: Counter[tuple[int, int]] = Counter()  # the most that can be left of that: mail nobody will ever read
    for seat, genesis in enumerate(share_out(founders)):
        founder = words.get(Member(seat, 0))
        if founder is None or not founder[layout.GENESIS]:
            lost += genesis
        if founder is None:
            awaited += genesis
    for member, own in words.items():
        amount = own[layout.GENESIS] + own[layout.TAKEN]
        taken += own[layout.TAKEN]
        for seat in range(seats):
            receipt = layout.receipt(seats, seat)
            turn = bool(own[receipt + layout.ACKNOWLEDGED] & FLAG)
            received = own[receipt + layout.RECEIVED + turn] if own[receipt + layout.ACKNOWLEDGED] else 0
            sent, unread, receiver = _post(words, member, seat, seats)
            amount += received - sent
            apart[seat, member.seat] -= received
            apart[member.seat, seat] += sent - unread
            doubtful[member.seat, seat] += own[layout.post(seat) + layout.GIVEN]
            if member not in alive and not unread and not together(member, receiver):
                doubtful[member.seat, seat] += own[layout.details(seat, 0) + layout.MASS]
                doubtful[member.seat, seat] += own[layout.details(seat, 1) + layout.MASS]
            kept = member in alive or (receiver in alive and together(member, receiver))
            if unread and kept and not own[layout.post(seat) + layout.COMMIT] & GIVEN_UP:
                in_flight += unread
            else:
                lost += unread
        amount &= MASK
        if member in alive:
            held[member] = amount
        else:
            lost += amount
    lost += sum(left & MASK for pair, left in apart.items() if left & MASK <= doubtful[pair])
    return Ledger(held, in_flight, lost - taken, taken, awaited)


def _post(words: Mapping[Member, Words], member: Member, seat: int, seats: int) -> tuple[int, int, Member]:
    """(shares sent to a seat in all, shares of them still unread, by whom)."""
    own = words[member]
    word = own[layout.post(seat) + layout.COMMIT]
    sequence = layout.sequence_of(word)
    if sequence == 0:
        return 0, 0, member
    block = layout.details(seat, sequence)
    sent, shares = own[block + layout.SENT], own[block + layout.MASS]
    if word & FLAG:
        return sent - shares, 0, member
    receiver = Member(seat, layout.generation_of(word))
    if receiver not in words:
        return sent, shares, receiver
    receipt = words[receiver][layout.receipt(seats, member.seat) + layout.ACKNOWLEDGED] & ~FLAG
    # A receipt for a successor's mail says so too: all mail of a seat's earlier members is read before it.
    read = receipt >= layout.pack(sequence, member.generation)
    return sent, 0 if read else shares, receiver


def audit(books: Books, founders: int, attempts: int = 100) -> Ledger:
    """The ledger of a running job, from a snapshot that no transfer of mass interrupted.

    The words by which mass moves are read, then all words are copied, then the first are read again, until nothing has
    changed between: then what the copied announcements and receipts select has not changed either.

    Raises:
        TimeoutError: mass moved during each of `attempts` copies.
    """
    fence = load_fence()
    size = layout.size(books.seats)
    before = _movements(books)
    for _ in range(attempts):
        fence()
        words = {member: _copy(books.open(member), size) for member in before}
        fence()
        after = _movements(books)
        if after == before:
            alive = {m for m in words if words[m][layout.STATE] != State.GONE and not books.dead(m)}
            return balance(words, alive, books.seats, founders, getattr(books, "together", _always))
        before = after
    raise TimeoutError(f"mass kept moving during {attempts} copies of the control words; try again")


def extinct(ledger: Ledger) -> bool:
    """Whether living members hold next to no mass and next to none is on its way to one."""
    return ledger.in_flight + sum(ledger.held.values()) < SCANT


def _copy(words: Words, size: int) -> list[int]:
    if isinstance(words, memoryview):
        return words[:size].tolist()
    return [words[index] for index in range(size)]


def _movements(books: Books) -> dict[Member, list[int]]:
    """Per member: its announcements, its receipts, what it was founded with and what it took after an extinction."""
    return {
        member: _moves(books.open(member), books.seats)
        for seat, count in enumerate(books.generations())
        for member in (Member(seat, age) for age in range(count))
    }


def _moves(own: Words, seats: int) -> list[int]:
    posts = [own[layout.post(seat) + layout.COMMIT] for seat in range(seats)]
    receipts = [own[layout.receipt(seats, seat) + layout.ACKNOWLEDGED] for seat in range(seats)]
    return [own[layout.TAKEN], own[layout.GENESIS], *posts, *receipts]
