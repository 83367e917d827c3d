"""The courier of a member: a thread that keeps what is known of members on other hosts up to date.

Imports gossip.layout and gossip.transports' connections, links, vectors, notes and engine. The training thread reads
and writes words and slots in memory, as it does for members of its own host, and never waits for the network: the
courier tells the others what has changed, starts to read a vector that is announced, and then shows the announcement.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from gossip import layout
from gossip.layout import Member, State, Words
from gossip.transports.connections import SILENCE_S, Connections
from gossip.transports.known import Known
from gossip.transports.links import Link
from gossip.transports.nixl import Engine, LinkError
from gossip.transports.notes import About, Final, Notes, Standing, standing
from gossip.transports.vectors import Vectors

_log = logging.getLogger("gosgd")

ABSENCE_S = 15.0
"""Who has not been heard of for so long is not waited for by those that leave."""
_PULSE_S = 1.0
_SOON_S = 0.25
_BUSY_S, _REST_S, _PATIENCE = 0.002, 0.01, 8
"""Between two looks at the network while a vector is under way; at most; the longer nothing happens the longer."""
_LOOK_S = 0.25
_FAREWELL_S = 1.0
_AUDITORS = 8
_EVERYTHING = 1 << 63
_BUDGET_S = 0.002
"""Time between two notes that say nothing urgent, of all to all: it bounds what a large job spends on them."""


class Courier(threading.Thread):
    """Carries notes and vectors between this member and those of other hosts.

    Args:
        engine: nobody else uses it once the courier runs.
        notes: of this job.
        words: of this member.
        seats: of the job.
        vectors: reads what is announced.
        ended: says which other members of this host are proven to have ended, with their last words.
        about: this member, as it is to be introduced; asked again and again.
    """

    def __init__(
        self,
        me: Member,
        engine: Engine,
        notes: Notes,
        words: Words,
        seats: int,
        vectors: Vectors,
        ended: Callable[[], dict[Member, Words]],
        about: Callable[[], About],
    ) -> None:
        super().__init__(name="gosgd-courier", daemon=True)
        self.me, self._engine, self._notes, self._words, self._seats = me, engine, notes, words, seats
        self._vectors, self._ended, self._about = vectors, ended, about
        self._known = Known(me, seats)
        self.links, self.counts = self._known.links, self._known.counts
        self._introduced: list[About] = []
        self._wake = threading.Event()
        self._dirty: deque[int | None] = deque()
        self._stopping = False
        self._serial = 0
        self._introduction = 0
        self._last_about: About | None = None
        self._looked = self._eventful = 0.0
        self._gone: dict[Member, Words] = {}
        self._connections = Connections(me, engine, vectors)

    # ---- called by the training thread

    def urgent(self, seat: int | None) -> None:
        """A word has been stored that the member on `seat` waits for, or everybody."""
        self._dirty.append(seat)
        self._wake.set()

    def introduce(self, about: About) -> None:
        """Make a member of another host known; called from other threads."""
        self._introduced.append(about)

    def stop(self) -> None:
        """Say farewell to all who can be reached, and end; what the words say now is this member's last."""
        self._stopping = True
        self._wake.set()
        self.join(10.0)

    # ---- the thread

    def run(self) -> None:
        """Go on until `stop`."""
        self._engine.enter()
        while not self._stopping:
            try:
                busy = self._turn(time.monotonic())
            except Exception:
                _log.exception("worker %d: a note to or from other hosts failed", self.me.seat)
                busy = False
            quiet = time.monotonic() - self._eventful
            self._wake.wait(_BUSY_S if busy else min(_REST_S, max(_BUSY_S, quiet / _PATIENCE)))
            self._wake.clear()
        try:
            self._farewell()
        except Exception:
            _log.exception("worker %d: could not say farewell to other hosts", self.me.seat)
        self._engine.close()

    def _turn(self, now: float) -> bool:
        while self._introduced:
            self._meet(self._introduced.pop())
        self._listen(now)
        dirty = {self._dirty.popleft() for _ in range(len(self._dirty))}
        if dirty:
            self._eventful = now
        if now - self._looked > _LOOK_S:
            self._looked = now
            self._look_around(now)
        links = list(self.links.values())
        pulse = max(_PULSE_S, _BUDGET_S * len(links))
        busy = False
        for link in links:
            if link.member.seat in dirty:
                self._vectors.release_read(link)
            if link.ended:
                self._connections.disconnected(link, now)
                continue
            link.urgent |= None in dirty or link.member.seat in dirty
            try:
                self._connections.keep_up(link, now, max(SILENCE_S, 4 * _BUDGET_S * len(links)))
                if link.connected:
                    due = link.told_at + (max(_SOON_S, pulse / 4) if link.up and self._stepping() else pulse)
                    if link.urgent or now > due:
                        self._tell(link, now)
                if link.up:
                    self._vectors.fetch(link)
                    busy |= link.transfer is not None or self._known.awaited(link, self._words)
            except LinkError as error:
                self._connections.drop(link, now, str(error))
        return busy or bool(self._dirty)

    def _stepping(self) -> bool:
        return self._words[layout.STATE] in (State.ACTIVE, State.JOINING, State.LEAVING)

    def _meet(self, about: About) -> None:
        member = about.member
        if member == self.me:
            return
        link = self.links.get(member)
        if link is None:
            self.links[member] = Link(about, heard_at=time.monotonic())
        elif about.edition > link.about.edition:
            changed = about.metadata != link.about.metadata
            link.about = about
            if changed and link.connected:
                self._engine.connect(about.metadata)

    def _listen(self, now: float) -> None:
        for message in self._engine.arrived():
            self._eventful = now
            try:
                note = self._notes.read(message)
            except ValueError as error:
                _log.debug("worker %d: a note is ignored: %s", self.me.seat, error)
                continue
            if isinstance(note, About):
                try:
                    self._meet(note)
                except LinkError as error:
                    self._connections.drop(self.links[note.member], now, str(error))
                self._hear(note.member, now)
            elif isinstance(note, Final):
                self._known.enter(note)
            else:
                link = self._known.heed(note)
                if link is not None and link.ended:
                    self._part(link, now)
                elif link is not None:
                    self._hear(note.member, now)

    def _hear(self, member: Member, now: float) -> None:
        link = self.links.get(member)
        if link is not None and not link.ended:
            link.heard_at = now
            self._connections.heard(link)

    def _auditors(self) -> list[Link]:
        """Those who are told what others leave in their books: the last of a job is the lowest who stays."""
        return sorted((link for link in self.links.values() if link.up), key=lambda link: link.member)[:_AUDITORS]

    # ---- notes

    def _part(self, link: Link, now: float) -> None:
        """A member has ended; if it is this note's writer, it waits to hear that it was heard."""
        if link.connected:
            try:
                self._engine.send(link.name, self._standing(link, ended=False))
            except LinkError as error:
                _log.debug("worker %d: %s", self.me.seat, error)
        self._connections.end(link, now)

    def _tell(self, link: Link, now: float) -> None:
        about = self._about()
        if about != self._last_about:
            self._last_about = about
            self._introduction += 1
        if link.greeted != self._introduction or not link.up:
            self._engine.send(link.name, self._notes.hello(replace(about, edition=self._introduction)))
            link.greeted = self._introduction
            for member, words in self._gone.items():
                self._engine.send(link.name, self._last_words(member, words, link))
        link.urgent, link.told_at = False, now
        self._engine.send(link.name, self._standing(link, ended=False))

    def _standing(self, link: Link, ended: bool) -> bytes:
        self._serial += 1
        parts = standing(self._words, self._seats, link.member.seat)
        serial = _EVERYTHING if ended else self._serial
        return self._notes.tell(Standing(self.me, serial, link.heard, *parts, ended=ended))

    def _last_words(self, member: Member, words: Words, link: Link) -> bytes:
        parts = standing(words, self._seats, link.member.seat)
        return self._notes.tell(Standing(member, _EVERYTHING, 0, *parts, ended=True))

    def _look_around(self, now: float) -> None:
        """Tell the others of members of this host that have ended."""
        for member, words in self._ended().items():
            if member in self._gone:
                continue
            self._gone[member] = words
            for link in self.links.values():
                if link.up:
                    try:
                        self._engine.send(link.name, self._last_words(member, words, link))
                    except LinkError as error:
                        self._connections.drop(link, now, str(error))
            self._send_books(member, words, now)

    def _send_books(self, member: Member, words: Words, now: float) -> None:
        note = self._notes.close(member, words, layout.size(self._seats))
        for link in self._auditors():
            try:
                self._engine.send(link.name, note)
            except LinkError as error:
                self._connections.drop(link, now, str(error))

    def _farewell(self) -> None:
        now = time.monotonic()
        deadline = now + _FAREWELL_S
        self._send_books(self.me, self._words, now)
        last = {}
        for link in [link for link in self.links.values() if link.up]:
            try:
                self._tell(link, now)
                last[link.member] = self._serial
                self._engine.send(link.name, self._standing(link, ended=True))
            except LinkError:
                continue
        while last and time.monotonic() < deadline:
            self._listen(time.monotonic())
            last = {m: serial for m, serial in last.items() if self.links[m].confirmed < serial and self.links[m].up}
            time.sleep(_BUSY_S)
        for link in self.links.values():
            if link.name:
                self._connections.let_go(link)
