"""Which exchange, and when, lowers the consensus error most for the same number of messages (thesis chapter 6).

The thesis asks for K(t) = argmin ||K P - (1/M) 1 1^T|| under the constraint of one message, P being the product of all
matrices so far. Its diagonal part can be known locally. With updates of variance 1 a coordinate, and taking the
workers' differences from the mean as independent, worker m has wandered off by

    e_m <- e_m + 1                           at a local step
    e_r <- (1 - a)^2 e_r + a^2 e_s           at a merge with weight a

so that a message with mass lambda lowers r's share of the error by g = 2 a e_r - a^2 (e_r + e_s), where a is
lambda / (lambda_r + lambda). Each worker publishes two numbers, e and its mass. The sender takes the receiver with the
largest g, and the time: it earns rho of a message a step, and spends one when g is above what its messages usually
gain. Pure; imports nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

_MEMORY = 0.95
"""Of the usual gain, per message."""
_SPREAD = 0.5
"""A message costs 1 - _SPREAD to 1 + _SPREAD, at random: equal intervals lock workers into groups that never mix."""
_PATIENCE = 3.0
"""Messages earned at which one is sent even if it gains little."""


class Standing(NamedTuple):
    """What a worker tells about itself: the shares it holds, and e."""

    mass: int
    wandered: float


class Adaptive:
    """One worker's choice of exchanges.

    Args:
        rho: messages per local step, on average.
        generator: of the small randomness it needs.

    Attributes:
        wandered: e of this worker.
        rho: may be changed at any time.
    """

    def __init__(self, rho: float, generator: random.Random) -> None:
        self.rho = rho
        self._generator = generator
        self._credit = generator.random()
        self._usual = 1.0
        self.wandered = 0.0

    def step(self) -> bool:
        """A local step was made; whether a message can be afforded now."""
        self.wandered += 1.0
        self._credit = min(self._credit + self.rho, _PATIENCE + 1.0)
        return self._credit >= 1.0

    def merged(self, weight: float, theirs: float) -> None:
        """A message was merged with `weight`; its sender stood at e = `theirs`."""
        self.wandered = (1.0 - weight) ** 2 * self.wandered + weight**2 * theirs

    def gains(self, shares: int, others: Sequence[Standing]) -> list[float]:
        """g of a message with so many shares to each of the others."""
        found = []
        for mass, wandered in others:
            a = shares / (mass + shares)
            found.append(a * (2.0 * wandered - a * (wandered + self.wandered)))
        return found

    def worth(self, gain: float) -> bool:
        """Whether to spend a message on this gain now rather than wait for a better one."""
        return gain > self._usual or self._credit > _PATIENCE

    def sent(self, gain: float) -> None:
        """A message was sent."""
        self._credit -= self._generator.uniform(1.0 - _SPREAD, 1.0 + _SPREAD)
        self._usual = _MEMORY * self._usual + (1.0 - _MEMORY) * max(gain, 0.0)
