"""What an exchange costs a worker and a step: messages, bytes, work and waiting. Imports gossip."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

from gossip.costs import messages
from gossip.methods.base import MethodConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig

JITTER = 0.05
"""Standard deviation of a step's time over its mean: what workers that meet have to wait for."""
FULL = 0.5
"""Part of a link that messages may take before they are counted as too many."""


class Net(NamedTuple):
    """A network by what it gives each worker.

    Attributes:
        bytes_per_s: each way, of each worker.
        latency_s: one way.
    """

    name: str
    bytes_per_s: float
    latency_s: float


class Rates(NamedTuple):
    """Seconds of a worker's processor for each byte that it sends, memory and protocol included."""

    gossip: float
    meeting: float


class Cost(NamedTuple):
    """What a method takes of a worker and step.

    Attributes:
        messages: vectors sent.
        sent: bytes.
        work_s: of the worker's processor.
        wait_s: for the network and for others.
        load: of the link, as a part of what it can carry.
    """

    messages: float
    sent: float
    work_s: float
    wait_s: float
    load: float

    def over(self, step_s: float) -> float:
        """A step over one without exchange."""
        return 1 + (self.work_s + self.wait_s) / step_s


def slowest(workers: int, steps: int = 1, jitter: float = JITTER) -> float:
    """How late the slowest of M workers is after so many steps, in steps: jitter sqrt(steps) E max of M normals.

    E max is Blom's approximation of the largest normal order statistic.
    """
    quantile = statistics.NormalDist().inv_cdf((workers - 0.375) / (workers + 0.25))
    return jitter * math.sqrt(steps) * max(0.0, quantile)


def all_reduce_s(size: float, workers: int, net: Net) -> float:
    """The faster of a ring, 2 (M - 1) (V / (M B) + l), and a tree, 2 (V / B + l log2 M)."""
    ring = 2 * (workers - 1) * (size / workers / net.bytes_per_s + net.latency_s)
    tree = 2 * (size / net.bytes_per_s + net.latency_s * math.log2(workers))
    return min(ring, tree)


def cost(config: MethodConfig, workers: int, size: float, step_s: float, net: Net, rates: Rates) -> Cost:
    """A method's cost, per worker and step.

    Args:
        config: gosgd, or a method whose workers meet.
        workers: M.
        size: V, bytes of a vector as it is sent.
        step_s: of a step without exchange.
    """
    sent = messages(config, workers) * size
    if isinstance(config, GoSGDConfig):
        work = rates.gossip * sent
        return Cost(config.rho, sent, work, 0.0, sent / net.bytes_per_s / (step_s + work))
    period = 1 if isinstance(config, FullySyncConfig) else getattr(config, "tau", None) or 1
    work = rates.meeting * sent
    wait = all_reduce_s(size, workers, net) / period + slowest(workers, period) * step_s / period
    load = sent / net.bytes_per_s / (step_s + work + wait)
    return Cost(messages(config, workers), sent, work, wait, load)


def most_rho(size: float, step_s: float, net: Net, rates: Rates) -> float:
    """The largest rho that loads the link by no more than FULL: rho V / B = FULL (s + g rho V), at most 1."""
    free = size / net.bytes_per_s - FULL * rates.gossip * size
    return 1.0 if free <= 0 else min(1.0, FULL * step_s / free)
