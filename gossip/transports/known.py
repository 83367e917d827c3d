"""What a member knows of those on other hosts: a link each, kept up to date by their notes.

Imports gossip.layout and gossip.transports' links and notes. Nothing here talks to anybody: the courier does.
"""

from __future__ import annotations

import logging

from gossip import layout
from gossip.layout import FLAG, GIVEN_UP, Member, State, Words
from gossip.transports.links import Link
from gossip.transports.notes import About, Final, Standing

_log = logging.getLogger("gosgd")


class Known:
    """Members of other hosts, as far as they have told how they stand.

    Args:
        me: who knows them.
        seats: of the job.

    Attributes:
        links: to all who have been introduced.
        counts: per seat, one more than the generation of the newest member that has told anything.
    """

    def __init__(self, me: Member, seats: int) -> None:
        self._me, self._seats = me, seats
        self.links: dict[Member, Link] = {}
        self.counts = [0] * seats

    def heed(self, note: Standing) -> Link | None:
        """Take note of how a member stands.

        Returns:
            Its link, if this was news.
        """
        link = self.links.get(note.member)
        if note.member == self._me:
            return None
        if link is None:
            if note.ended:
                self._bury_unmet(note)
            return None
        if link.ended or note.serial <= link.heard:
            return None
        link.heard, link.confirmed = note.serial, max(link.confirmed, note.heard if not note.ended else 0)
        if link.connected and not link.up and not note.ended:
            link.up = link.urgent = True
            _log.info("worker %d: worker %d is in reach", self._me.seat, link.member.seat)
        self._copy(link, note)
        commit = note.post[layout.COMMIT]
        mine = layout.generation_of(commit) == self._me.generation and layout.sequence_of(commit) and not commit & FLAG
        shown = link.words[layout.post(self._me.seat) + layout.COMMIT]
        if mine and commit != shown and (link.announced is None or link.announced.post[0] != commit):
            link.announced = note
        link.met = True
        self._count(note.member)
        if note.header[layout.STATE] == State.GONE:
            link.settled = True
            link.urgent = True  # it waits to hear that this was heard
        if note.ended:
            link.settled = link.ended = True
        return link

    def enter(self, note: Final) -> None:
        """Take over the books of a member that has ended; of its mail to us, only what has come counts."""
        link = self.links.get(note.member)
        if link is None or link.books:
            return
        own = layout.post(self._me.seat)
        hidden = {layout.PUBLISHING, layout.PUBLISHED, *range(own, own + layout.POST)}
        link.words.update({index: word for index, word in note.words.items() if index not in hidden})
        link.books = True

    def awaited(self, link: Link, words: Words) -> bool:
        """Whether a vector of ours may be being read: that gets on only as often as the engine is used.

        Args:
            words: of this member.
        """
        commit = words[layout.post(link.member.seat) + layout.COMMIT]
        receipt = link.words[layout.receipt(self._seats, self._me.seat) + layout.ACKNOWLEDGED] & ~FLAG
        ours = layout.pack(layout.sequence_of(commit), self._me.generation)
        return commit != 0 and not commit & (FLAG | GIVEN_UP) and receipt != ours

    def _copy(self, link: Link, note: Standing) -> None:
        words = link.words
        for index, word in enumerate(note.header):
            if index not in (layout.PUBLISHING, layout.PUBLISHED):
                words[index] = word
        if note.header[layout.PUBLISHED] > link.publication:
            link.publication = note.header[layout.PUBLISHED]
        base = layout.receipt(self._seats, self._me.seat)
        acknowledged, received = note.receipt
        words[base + layout.RECEIVED + bool(acknowledged & FLAG)] = received
        words[base + layout.ACKNOWLEDGED] = acknowledged

    def _bury_unmet(self, note: Standing) -> None:
        """Another host's member has ended before it was ever heard here: its last receipt still counts."""
        about = About(note.member, b"", note.header[layout.DIMENSION], note.header[layout.FINGERPRINT], 0)
        link = self.links[note.member] = Link(about, met=True, ended=True, settled=True, heard=note.serial)
        self._copy(link, note)
        self._count(note.member)

    def _count(self, member: Member) -> None:
        self.counts[member.seat] = max(self.counts[member.seat], member.generation + 1)
