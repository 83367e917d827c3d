"""When a gossip worker pushes, and to whom. Imports gossip.adaptive, gossip.mass, gossip.outbox and gossip.peers."""

from __future__ import annotations

import random
import time
from operator import itemgetter

from gossip import layout
from gossip.adaptive import Adaptive, Standing
from gossip.layout import Member, Words
from gossip.mail import Write
from gossip.mass import halve
from gossip.outbox import Outbox
from gossip.peers import Chooser


class Allowance:
    """How many bytes may be sent: so many a second, and never more at once than a second's or one message's.

    Args:
        rate: bytes a second; None for any number.
        message: bytes of a message.
    """

    def __init__(self, rate: float | None, message: int) -> None:
        self._rate, self._message = rate, message
        self._left = self._most = max(rate or 0.0, float(message))
        self._at = time.monotonic()

    def covers(self) -> bool:
        """Whether a message may be sent now."""
        if self._rate is None:
            return True
        now = time.monotonic()
        self._left, self._at = min(self._most, self._left + (now - self._at) * self._rate), now
        return self._left >= self._message

    def spend(self) -> None:
        """A message was sent."""
        self._left -= self._message


class AtRandom:
    """After each local step with probability rho, to whom a chooser says (thesis alg. 3).

    Args:
        outbox: of this worker.
        rho: probability.
        choose: whom to send to.
        generator: of chance.
        allowance: of bytes.

    Attributes:
        rho: may be changed at any time.
    """

    def __init__(
        self, outbox: Outbox, rho: float, choose: Chooser, generator: random.Random, allowance: Allowance
    ) -> None:
        self.rho = rho
        self._outbox, self._choose, self._generator, self._allowance = outbox, choose, generator, allowance

    def after_step(self, step: int, write: Write) -> None:
        """Push or not."""
        if self._generator.random() >= self.rho:
            return
        outbox = self._outbox
        if not self._allowance.covers():
            outbox.counters.skipped_bandwidth += 1
            return
        peers = {peer.member.seat: peer for peer in outbox.choosable(step)}
        seat = self._choose(sorted(peers), outbox.transport.me.seat, outbox.counters.sent, self._generator)
        if seat is not None and outbox.push(peers[seat], halve(outbox.mass)[1], step, write):
            self._allowance.spend()

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
        allowance: of bytes.
    """

    def __init__(self, outbox: Outbox, rho: float, generator: random.Random, allowance: Allowance) -> None:
        self._outbox, self._allowance = outbox, allowance
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
                if not self._allowance.covers():
                    outbox.counters.skipped_bandwidth += 1
                elif outbox.push(peer, shares, step, write):
                    self._allowance.spend()
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
