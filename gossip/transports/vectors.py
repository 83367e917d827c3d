"""Vectors on their way from other hosts into this member's memory, read by the courier. Imports transports' links.

An announcement is shown to this member only when its vector lies in a staging place, of which there are as many as the
member has slots: beyond that, announcements wait, as they would with a peer that reads late.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from gossip import layout
from gossip.layout import FLAG, IN_HOST, Member, Words
from gossip.transports.links import Link, Transfer
from gossip.transports.nixl import Engine, LinkError, whole_pages
from gossip.transports.notes import Standing

_log = logging.getLogger("gosgd")


class Vectors:
    """Reads vectors of other hosts' members. Used by the courier's thread only, but for `watching` and `wanted`.

    Args:
        me: this member.
        engine: to read with.
        words: of this member.
        seats: of the job.
        places: how many messages may lie here unread.
        staging: the memory of a place for the vector that an announcement's slot word stands for, whole.
        size: bytes of that vector.

    Attributes:
        watching: whether publications are wanted.
        wanted: a place for the weights that founders begin with, and what to call when they have come.
    """

    def __init__(
        self,
        me: Member,
        engine: Engine,
        words: Words,
        seats: int,
        places: int,
        staging: Callable[[int, int], Tensor],
        size: Callable[[int], int],
    ) -> None:
        self._me, self._engine, self._words, self._seats = me, engine, words, seats
        self._staging, self._size = staging, size
        self._free = list(range(places))
        self._placed: Tensor | None = None
        self._watched: dict[int, tuple[Link, Tensor, Tensor]] = {}
        self.watching = False
        self.wanted: tuple[Tensor, Callable[[], None]] | None = None

    def over(self, link: Link) -> bool:
        """Whether nothing comes any more of what was being read of a member whose connection is not used any more.

        A read cannot be taken back: its sender goes on writing where it was to go until it has come or failed, though
        the handle is released and the connection closed. So long that place must not be used for anything else.
        """
        if link.transfer is None:
            return True
        try:
            return self._engine.finished(link.transfer.handle)
        except LinkError:
            return True

    def cancel(self, link: Link) -> None:
        """Give up what was under way and is over; it is begun anew when the member is in reach again."""
        if link.transfer is not None:
            transfer, link.transfer = link.transfer, None
            try:
                self._engine.release(transfer.handle)
            except LinkError as error:
                _log.debug("worker %d: %s", self._me.seat, error)
        if link.staged is not None and link.announced is not None:
            self._free.append(link.staged)
            link.staged = None

    def fetch(self, link: Link) -> None:
        """Go on with what a member that is in reach has for this one; never waits."""
        if link.transfer is not None:
            if not self._engine.finished(link.transfer.handle):
                return
            transfer, link.transfer = link.transfer, None
            self._engine.release(transfer.handle)
            transfer.then()
        if link.transfer is not None:  # the second part of a publication
            return
        if link.announced is not None:
            self._fetch_mail(link, link.announced)
        elif self.wanted is not None and link.about.initial:
            self._fetch_initial(link)
        elif self.watching and link.about.published and link.publication > link.words[layout.PUBLISHED]:
            self._fetch_publication(link)

    def _read(
        self, link: Link, here: Tensor, there: int, size: int, then: Callable[[], None], device: int = IN_HOST
    ) -> None:
        handle = self._engine.read(link.name, here, there, size, device)
        link.transfer = Transfer(handle, then)

    def _fetch_mail(self, link: Link, note: Standing) -> None:
        slot = note.post[1 + layout.SLOT]
        there, device = link.about.slot(slot)
        if not there:  # a new one, of which it will tell next
            return
        if link.staged is None:
            if not self._free:
                return
            link.staged = self._free.pop()
        place = link.staged

        def show() -> None:
            sequence = layout.sequence_of(note.post[0])
            block = layout.details(self._me.seat, sequence)
            for detail in range(layout.DETAILS_SIZE):
                link.words[block + detail] = note.post[1 + detail]
            link.words[block + layout.SLOT] = place | slot & ~layout.SLOT_INDEX
            link.announced = None
            link.words[layout.post(self._me.seat) + layout.COMMIT] = note.post[0]

        self._read(link, self._staging(place, slot), there, self._size(slot), show, device)

    def release_read(self, link: Link) -> None:
        """Use a staging place again once its vector has been merged, or is not wanted any more."""
        if link.staged is None or link.announced is not None:
            return
        if link.discarded:
            self._free.append(link.staged)
            link.staged = None
            return
        word = link.words[layout.post(self._me.seat) + layout.COMMIT]
        receipt = self._words[layout.receipt(self._seats, link.member.seat) + layout.ACKNOWLEDGED] & ~FLAG
        if receipt == layout.pack(layout.sequence_of(word), link.member.generation):
            self._free.append(link.staged)
            link.staged = None

    def _fetch_initial(self, link: Link) -> None:
        assert self.wanted is not None
        place, then = self.wanted
        if place is not self._placed:
            self._engine.register(place)
            self._placed = place

        def arrived() -> None:
            if self.wanted is not None:  # another host may have been faster
                self.wanted = None
                then()

        self._read(link, place, link.about.initial, place.numel() * place.element_size(), arrived)

    def _fetch_publication(self, link: Link) -> None:
        sequence, turn = link.publication, link.publication & 1
        snapshots, header = self._watch(link)
        half = snapshots[turn]
        size = half.numel() * half.element_size()
        link.words[layout.PUBLISHING] = sequence

        def check() -> None:
            self._read(link, header, link.about.words, layout.HEADER * layout.WORD, show)

        def show() -> None:
            words = header.tolist()
            block = layout.PUBLICATION + 2 * turn
            if words[layout.PUBLISHING] <= sequence + 1:
                link.words[block], link.words[block + 1] = words[block], words[block + 1]
                link.words[layout.PUBLISHED] = sequence
            else:
                link.publication = max(link.publication, words[layout.PUBLISHED])

        self._read(link, half, link.about.published + turn * size, size, check)

    def _watch(self, link: Link) -> tuple[Tensor, Tensor]:
        """Where a member's snapshots and its header are read to: where those of the one before it on its seat were."""
        seat = link.member.seat
        if seat in self._watched:
            before, snapshots, header = self._watched[seat]
            if before is link:
                return snapshots, header
        if seat in self._watched and before.transfer is None:
            before.words[layout.PUBLISHING] = layout.MASK  # who reads them just now notices
            before.words[layout.PUBLISHED] = 0
            before.snapshots = None
        else:
            like = self._staging(0, 0)
            snapshots, header = (
                whole_pages(2, like.numel(), dtype=like.dtype),
                whole_pages(layout.HEADER, dtype=torch.int64),
            )
            self._engine.register(snapshots, header)
        self._watched[seat] = link, snapshots, header
        link.snapshots = snapshots
        return snapshots, header
