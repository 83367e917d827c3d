"""A member's connections to those of other hosts: made, kept and let go.

Imports gossip.layout, and gossip.transports' engine, links and vectors. A connection that brings no word is not one
that has failed: its peer may stand still. It is then kept, because UCX keeps the sockets of what it closes while the
other process lives, and because what is being read over it cannot be taken back.
"""

from __future__ import annotations

import logging
import random

from gossip.layout import Member
from gossip.transports.links import Link
from gossip.transports.nixl import Engine, LinkError
from gossip.transports.vectors import Vectors

_log = logging.getLogger("gosgd")

SILENCE_S = 5.0
"""Without a word for so long a member counts as out of reach."""
_AGAIN_S = (1.0, 3.0)
"""Between two attempts to connect, at random: two that try in step could go on resetting each other's connection.
Never sooner: what is closed takes a moment until it is gone."""
_ANEW_S, _ANEW_PART = 15.0, 0.25
"""A connection that seems whole is made anew after so long without a word (sooner if there never was one), and never
before that part of the time since the last: one to a process that stands still for a day costs a hundred sockets, not
ten thousand."""
_FAILED_S = 60.0
"""What a failed connection has not ended after so long will never be."""


class Connections:
    """Used by the courier's thread only.

    Args:
        me: whose.
        engine: to connect with.
        vectors: what is read over them.
    """

    def __init__(self, me: Member, engine: Engine, vectors: Vectors) -> None:
        self._me, self._engine, self._vectors = me, engine, vectors
        self._chance = random.Random(repr(me))

    def keep_up(self, link: Link, now: float, quiet: float) -> None:
        """Connect, if it is time to, and notice who is silent.

        Args:
            quiet: seconds without a word after which a member is out of reach.

        Raises:
            LinkError: there is no connection, or it is to be made anew.
        """
        if not link.connected:
            if self.disconnected(link, now) and now >= link.retry_at:
                link.name = self._engine.connect(link.about.metadata)
                link.connected, link.since, link.greeted = True, now, -1
                link.urgent = True
            return
        silent = now - max(link.heard_at, link.since)
        if silent > quiet:
            self._out_of_reach(link, f"not heard of for {silent:.0f} s")
        patience = _ANEW_S if link.heard_at > link.since else quiet
        if silent > max(patience, _ANEW_PART * (now - link.heard_at)) and link.transfer is None:
            raise LinkError(f"not heard of for {silent:.0f} s")

    def heard(self, link: Link) -> None:
        """A member that was heard has found its way here already."""
        if not link.connected:
            link.retry_at = min(link.retry_at, link.since + _AGAIN_S[0])

    def drop(self, link: Link, now: float, why: str) -> None:
        """Use a connection no more; another is made in a while."""
        self._out_of_reach(link, why)
        link.connected, link.since = False, now
        link.retry_at = now + self._chance.uniform(*_AGAIN_S)

    def end(self, link: Link, now: float) -> None:
        """Use a connection no more: its member has ended."""
        link.connected, link.up, link.since = False, False, now

    def disconnected(self, link: Link, now: float) -> bool:
        """Let go of a connection that is not used any more, but not while a vector may still come over it.

        Returns:
            Whether there is none any more.
        """
        if link.name and (self._vectors.over(link) or now - link.since > _FAILED_S):
            self.let_go(link)
            link.retry_at = max(link.retry_at, now + _AGAIN_S[0])
        return not link.name

    def let_go(self, link: Link) -> None:
        """Have no connection any more."""
        self._vectors.cancel(link)
        try:
            self._engine.disconnect(link.name)
        except LinkError as error:
            _log.debug("worker %d: %s", self._me.seat, error)
        link.name, link.connected, link.up = "", False, False

    def _out_of_reach(self, link: Link, why: str) -> None:
        if link.up:
            _log.warning("worker %d: worker %d is out of reach: %s", self._me.seat, link.member.seat, why)
        link.up = False
