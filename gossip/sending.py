"""When a gossip worker pushes, and to whom. Imports gossip.adaptive, gossip.mass, gossip.outbox and gossip.peers."""

from __future__ import annotations

import random
from operator import itemgetter

from gossip import layout
from gossip.adaptive import Adaptive, Standing
from gossip.layout import Member, Words
from gossip.mail import Write
from gossip.mass import halve
from gossip.outbox import Outbox
from gossip.peers import Chooser


class AtRandom:
    """After each local step with probability rho, to whom a chooser says (thesis alg. 3).

    Args:
        outbox: of this worker.
        rho: probability.
        choose: whom to send to.
        generator: of chance.

    Attributes:
        rho: may be changed at any time.
    """

    def __init__(self, outbox: Outbox, rho: float, choose: Chooser, generator: random.Random) -> None:
        self.rho = rho
        self._outbox, self._choose, self._generator = outbox, choose, generator

    def after_step(self, step: int, write: Write) -> None:
        """Push or not."""
        if self._generator.random() >= self.rho:
            return
        outbox = self._outbox
        peers = {peer.member.seat: peer for peer in outbox.choosable(step)}
        seat = self._choose(sorted(peers), outbox.transport.me.seat, outbox.counters.sent, self._generator)
        if seat is not None:
            outbox.push(peers[seat], halve(outbox.mass)[1], step, write)

    def merged(self, weight: float, sender: Member) -> None:
        """Nothing to note."""

    def tell(self) -> None:
        """Nothing to tell."""


class WhereItHelps:
    """When and where a message lowers the consensus error most, rho times a step on average (gossip.adaptive).

    Args:
        outbox: of this worker.
        rho: messages per step.
        generator: of chance.
    """

    def __init__(self, outbox: Outbox, rho: float, generator: random.Random) -> None:
        self._outbox = outbox
        self._adaptive = Adaptive(rho, generator)

    @property
    def rho(self) -> float:
        """Messages per step; may be changed at any time."""
        return self._adaptive.rho

    @rho.setter
    def rho(self, rho: float) -> None:
        self._adaptive.rho = rho

    def after_step(self, step: int, write: Write) -> None:
        """Push or not."""
        outbox, adaptive = self._outbox, self._adaptive
        shares = halve(outbox.mass)[1]
        if not adaptive.step() or not shares:
            return
        peers = outbox.choosable(step)
        gains = adaptive.gains(shares, [_standing(peer.words) for peer in peers])
        for gain, peer in sorted(zip(gains, peers, strict=True), key=itemgetter(0), reverse=True):
            if not adaptive.worth(gain):
                return
            if not outbox.expects(peer):  # two messages at once would do little more than one
                if outbox.push(peer, shares, step, write):
                    adaptive.sent(gain)
                return

    def merged(self, weight: float, sender: Member) -> None:
        """Note how a message changed where this worker stands."""
        self._adaptive.merged(weight, _standing(self._outbox.transport.open(sender)).wandered)

    def tell(self) -> None:
        """Show the others where this worker stands."""
        words = self._outbox.transport.words
        words[layout.HELD] = self._outbox.mass
        words[layout.WANDERED] = int(self._adaptive.wandered * layout.WANDERED_SCALE)


def _standing(words: Words) -> Standing:
    return Standing(words[layout.HELD], words[layout.WANDERED] / layout.WANDERED_SCALE)
