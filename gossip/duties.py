"""What a gossip worker owes its peers at every step: read the inbox, feed newcomers, notice the dead.

Imports gossip's layout, leaving, mail, mass, outbox and job directory. No call waits for another worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import State
from gossip.leaving import inherit
from gossip.mail import Merge, Peer
from gossip.mass import SCANT, TOTAL
from gossip.outbox import Outbox

_log = logging.getLogger("gosgd")
_INSPECTION_S = 0.1

Send = Callable[[Peer], object]
"""Pushes half of the mass to a peer, with the weights."""


class Duties:
    """One worker's look-out over its queue.

    Args:
        outbox: its end of the queue.
        directory: of the job, where those that never came are given up.
        send: how a newcomer is fed.
        merge: as of `gossip.outbox.Outbox`.

    Attributes:
        taken: shares of dead workers that were re-issued to this one.
    """

    def __init__(self, outbox: Outbox, directory: JobDirectory, send: Send, merge: Merge) -> None:
        self.taken = 0
        self._outbox, self._directory = outbox, directory
        self._send, self._merge = send, merge
        self._words = outbox.transport.words
        self._counts: list[int] = []
        self._newcomers: list[Peer] = []
        self._inspected = 0.0

    def attend(self) -> None:
        """Do all of it once."""
        outbox = self._outbox
        counts = outbox.transport.generations()
        if counts != self._counts:
            self._counts = [*counts]
            outbox.refresh(self._merge)
            self._newcomers = list(outbox.peers)
        outbox.poll(self._merge)
        if self._newcomers:
            self._feed()
        now = time.monotonic()
        if now - self._inspected > _INSPECTION_S:
            self._inspected = now
            outbox.bury(self._merge)
            if outbox.mass < SCANT and self._words[layout.STATE] == State.ACTIVE:
                self.inherits()

    def _feed(self) -> None:
        """Push to a joining worker without waiting for chance: it does nothing until it has weights."""
        outbox = self._outbox
        for peer in [*self._newcomers]:
            state = peer.state()
            if state > State.JOINING or peer not in outbox.peers:  # buried: what it said last may be JOINING
                self._newcomers.remove(peer)
            elif (
                state == State.JOINING
                and peer.sound
                and outbox.transport.reachable(peer.member)
                and self._words[layout.STATE] == State.ACTIVE
                and outbox.mass > 1
                and not outbox.fed(peer)
            ):
                self._send(peer)

    def founded(self) -> bool:
        """Whether no founder is still to come with its share of the mass."""
        directory, counts = self._directory, self._outbox.transport.generations()
        came = all(counts[seat] or directory.given_up(seat) for seat in range(directory.founders))
        return came or self._outbox.transport.claimant("started") is not None

    def inherits(self) -> bool:
        """Whether the mass of the dead was re-issued to this worker."""
        taken = inherit(self._outbox, self._directory.founders)
        self.taken += taken
        if taken:
            seat = self._outbox.transport.me.seat
            _log.warning("worker %d: living workers hold no mass; re-issued %.3f of it", seat, taken / TOTAL)
        return taken > 0
