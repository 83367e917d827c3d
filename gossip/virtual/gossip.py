"""Gossip in the simulator: GoSGD with its shares and mail, and two references with known recursions.

Imports gossip.virtual.base, gossip.mass and gossip.moves.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from gossip.mass import halve, merge_weight, share_out
from gossip.methods.base import MethodConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.moves import Average, Copy, Merge
from gossip.peers import ADAPTIVE, chooser
from gossip.virtual.base import Virtual
from gossip.virtual.others import Others
from gossip.virtual.turns import Turn


class PairwiseConfig(MethodConfig):
    """Options of `pairwise`, symmetric gossip: both workers take their mean (Boyd et al. 2006).

    Attributes:
        rho: probability that a worker starts an exchange after its local step.
    """

    method: Literal["pairwise"] = "pairwise"
    rho: float = Field(ge=0, le=1)


class ConstantWeightConfig(MethodConfig):
    """Options of `constant_weight`: gossip with a fixed mixing weight in place of the ratio of masses.

    Attributes:
        rho: probability of a push after each local step.
        weight: a in w_r <- (1 - a) w_r + a w_s.
    """

    method: Literal["constant_weight"] = "constant_weight"
    rho: float = Field(ge=0, le=1)
    weight: float = Field(default=0.5, ge=0, le=1)


class Delivery(NamedTuple):
    """When a message is merged.

    Attributes:
        queued: at the receiver's next step, rather than when it arrives.
        delays: smallest and largest number of steps it is under way, each as likely.
    """

    queued: bool = False
    delays: tuple[int, int] = (0, 0)


class Message(NamedTuple):
    """One in flight."""

    receiver: int
    row: int
    shares: int
    sender: int


class Gossiping(Virtual):
    """Base of gossip: whom to exchange with."""

    def setup(self, config: GoSGDConfig | PairwiseConfig | ConstantWeightConfig) -> None:
        """Take rate and topology."""
        peers = getattr(config, "peers", "uniform")
        if peers != ADAPTIVE:
            self.choose = chooser(peers)
        self.rate = config.rho if self.workers > 1 else 0.0
        self.alive = bytearray(b"\1" * self.workers)
        self.generator = random.Random(0)
        self._sent = np.zeros((len(self.table.rows), self.workers), np.int32)

    @property
    def nbytes(self) -> int:
        """Who lives, and how often each has sent."""
        return int(len(self.alive) + self._sent.nbytes)

    def peer(self, repeat: int, worker: int) -> int | None:
        """Whom of the living a worker sends to."""
        sent = int(self._sent[repeat, worker])
        self._sent[repeat, worker] += 1
        return self.choose(Others(self.living, worker), worker, sent, self.generator)

    def after_update(self, turn: Turn) -> None:
        """Each with probability rho, as long as there are two."""
        if len(self.living) > 1:
            for repeat, worker in turn.chosen(self.rate):
                self.exchange(repeat, worker, turn.step)

    def exchange(self, repeat: int, worker: int, step: int) -> None:
        """What a worker does when chance says so."""
        raise NotImplementedError


class Pairwise(Gossiping):
    """Both workers take their mean at once."""

    def exchange(self, repeat: int, worker: int, step: int) -> None:
        """Two vectors travel."""
        other = self.peer(repeat, worker)
        if other is not None:
            Average((worker, other)).apply(self.table.rows[repeat])
            self.sent += 2


class GoSGD(Gossiping):
    """Push with half of one's shares; merge by the ratio of shares (thesis alg. 3 and 4).

    Attributes:
        shares: [R, M] integer shares held.
        inbox: mail that has arrived, by repeat and receiver, oldest first.
        skipped: pushes that did not happen because the sender held a single share.
    """

    def setup(self, config: GoSGDConfig | PairwiseConfig | ConstantWeightConfig) -> None:
        """Share out the mass."""
        super().setup(config)
        self.delivery = Delivery()
        self.shares = np.tile(np.array(share_out(self.workers), np.int64), (len(self.table.rows), 1))
        self.inbox: list[dict[int, list[Message]]] = [{} for _ in self.table.rows]
        self.skipped = 0
        self._under_way: dict[int, list[tuple[int, Message]]] = {}

    @property
    def nbytes(self) -> int:
        """And the shares."""
        return int(super().nbytes + self.shares.nbytes)

    def in_flight(self, repeat: int) -> list[Message]:
        """Messages of a repeat that have not been merged."""
        under_way = [one for mail in self._under_way.values() for where, one in mail if where == repeat]
        return under_way + [one for mail in self.inbox[repeat].values() for one in mail]

    def before_gradient(self, turn: Turn) -> None:
        """Read the mail."""
        for repeat, inbox in enumerate(self.inbox):
            if inbox:
                for worker in turn.awake(repeat, inbox):
                    for message in inbox.pop(worker):
                        self._merge(repeat, worker, message.row, message.shares, message.sender)
                        self.table.give(repeat, message.row)

    def after_update(self, turn: Turn) -> None:
        """Push, then take in what arrives now."""
        super().after_update(turn)
        self.deliver(turn)

    def deliver(self, turn: Turn) -> None:
        """What arrives now."""
        for repeat, message in self._under_way.pop(turn.step, ()):
            if self.delivery.queued or not self.alive[message.receiver]:
                self._put(repeat, message)
            else:
                self._merge(repeat, message.receiver, message.row, message.shares, message.sender)
                self.table.give(repeat, message.row)

    def exchange(self, repeat: int, worker: int, step: int) -> None:
        """Send a snapshot with half of the shares."""
        receiver = self.peer(repeat, worker)
        if receiver is not None:
            self.push(repeat, worker, receiver, step)

    def push(self, repeat: int, worker: int, receiver: int, step: int) -> None:
        """Send to one that has been chosen."""
        kept, shares = self._divide(int(self.shares[repeat, worker]))
        if shares == 0:
            self.skipped += 1
            return
        self.shares[repeat, worker] = kept
        self.sent += 1
        low, high = self.delivery.delays
        if not self.delivery.queued and high == 0:
            self._merge(repeat, receiver, worker, shares, worker)
            return
        row = self.table.take(repeat)
        Copy(row, worker).apply(self.table.rows[repeat])
        message = Message(receiver, row, shares, worker)
        delay = self.generator.randint(low, high) if high else 0
        if delay:
            self._under_way.setdefault(step + delay, []).append((repeat, message))
        elif self.delivery.queued:
            self._put(repeat, message)
        else:
            self._under_way.setdefault(step, []).append((repeat, message))

    def _put(self, repeat: int, message: Message) -> None:
        self.inbox[repeat].setdefault(message.receiver, []).append(message)

    def _divide(self, shares: int) -> tuple[int, int]:
        return halve(shares)

    def _merge(self, repeat: int, worker: int, row: int, shares: int, sender: int) -> None:
        held = int(self.shares[repeat, worker])
        Merge(worker, row, merge_weight(held, shares)).apply(self.table.rows[repeat])
        self.shares[repeat, worker] = held + shares


class ConstantWeight(GoSGD):
    """The same mail, merged with a fixed weight; no mass travels."""

    def setup(self, config: GoSGDConfig | PairwiseConfig | ConstantWeightConfig) -> None:
        """Take the weight."""
        super().setup(config)
        assert isinstance(config, ConstantWeightConfig)
        self._weight = config.weight

    def _divide(self, shares: int) -> tuple[int, int]:
        return shares, 1

    def _merge(self, repeat: int, worker: int, row: int, shares: int, sender: int) -> None:
        Merge(worker, row, self._weight).apply(self.table.rows[repeat])
