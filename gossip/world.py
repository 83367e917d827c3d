"""Everything about a simulation but the method: workers, clock, updates, and what goes wrong. Imports numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from gossip.methods.base import MethodConfig

Clock = Literal["round", "tick"]
DeliveryName = Literal["instant", "queued"]
_MAILING = ("gosgd", "constant_weight")


class Objective(Protocol):
    """What workers minimise together."""

    def gradient(self, weights: NDArray[Any]) -> NDArray[Any]:
        """[..., D] at weights [..., D]."""
        ...


@dataclass(frozen=True)
class Quadratic:
    """f(w) = 1/2 sum_i h_i (w_i - w*_i)^2.

    Args:
        curvature: h [D].
        optimum: w* [D].
    """

    curvature: NDArray[Any]
    optimum: NDArray[Any]

    def gradient(self, weights: NDArray[Any]) -> NDArray[Any]:
        """h (w - w*)."""
        return np.asarray(self.curvature * (weights - self.optimum))


@dataclass(frozen=True)
class Logistic:
    """f(w) = mean_n log(1 + exp(-y_n x_n . w)) + decay / 2 ||w||^2.

    Args:
        x: [N, D].
        y: [N], each -1 or 1.
        decay: of the weights.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    decay: float = 0.0

    def gradient(self, weights: NDArray[Any]) -> NDArray[Any]:
        """-mean_n y_n x_n / (1 + exp(y_n x_n . w)) + decay w."""
        margins = (weights @ self.x.T) * self.y
        wrong = self.y * 0.5 * (1.0 - np.tanh(margins / 2))  # 1 / (1 + exp(m)) without overflow
        return np.asarray(-(wrong @ self.x) / len(self.y) + self.decay * weights)


@dataclass(frozen=True)
class World:
    """Settings of a simulation.

    Attributes:
        workers: M.
        dimension: D.
        steps: rounds, or single wake-ups under `tick`.
        clock: whether every worker updates in a step, or one random one.
        delivery: whether a message is merged on arrival, or at its receiver's next step.
        variance: sigma^2 of each coordinate of the updates (or of the gradient's noise, given an objective).
        repeats: R, independent runs side by side.
        seed: of everything random.
        objective: updates are -step_size (gradient + noise); else they are the noise itself, eta = 1.
        step_size: eta of an objective.
        delays: smallest and largest number of steps a gossip message is under way.
        dead_fraction: of the workers that fall silent at step `dead_from`; they keep their mass and are not sent to.
        dead_from: counted from 0.
        slow_fraction: of the workers that step with `slow_probability` only when it is their turn.
        slow_probability: see there. Meetings of all workers (PerSyn) still average what everybody has by then.
        start: initial value of every weight, central ones included; 0 by default.
        dtype: of the weights; errors are added up in float64.
    """

    workers: int
    dimension: int
    steps: int
    clock: Clock = "round"
    delivery: DeliveryName = "instant"
    variance: float = 1.0
    repeats: int = 1
    seed: int = 0
    objective: Objective | None = None
    step_size: float = 1.0
    delays: tuple[int, int] = (0, 0)
    dead_fraction: float = 0.0
    dead_from: int = 0
    slow_fraction: float = 0.0
    slow_probability: float = 1.0
    start: float | None = None
    dtype: type[np.floating[Any]] = np.float32

    def __post_init__(self) -> None:
        for name in ("workers", "dimension", "steps", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}, expected at least 1")
        for name, choices in (("clock", get_args(Clock)), ("delivery", get_args(DeliveryName))):
            if getattr(self, name) not in choices:
                raise ValueError(f"got {name}={getattr(self, name)!r}, expected {' or '.join(choices)}")
        for name in ("dead_fraction", "slow_fraction", "slow_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"got {name}={getattr(self, name)}, expected 0 to 1")
        if not (self.variance >= 0 and math.isfinite(self.variance)):
            raise ValueError(f"got variance={self.variance}, expected a finite number of 0 or more")
        if not 0 <= self.delays[0] <= self.delays[1]:
            raise ValueError(f"got delays={self.delays}, expected (smallest, largest) in whole steps, 0 or more")
        if self.dead_from < 0 or self.seed < 0:
            raise ValueError(f"got dead_from={self.dead_from} and seed={self.seed}, expected 0 or more")
        if round(self.dead_fraction * self.workers) >= self.workers:
            raise ValueError(f"got dead_fraction={self.dead_fraction} of {self.workers} workers, expected one to live")

    @property
    def deviation(self) -> float:
        """sigma."""
        return math.sqrt(self.variance)

    def check(self, config: MethodConfig) -> None:
        """Refuse what does not fit a method.

        Raises:
            ValueError: messages of a method that has none are to be delayed.
        """
        name = getattr(config, "method", "?")
        if self.delays != (0, 0) and name not in _MAILING:
            raise ValueError(f"got delays={self.delays} for {name}, expected (0, 0): only {_MAILING} send messages")

    def unfortunate(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The workers that die and those that are slow, at random, the same in every repeat."""
        dead, slow = round(self.dead_fraction * self.workers), round(self.slow_fraction * self.workers)
        if dead + slow == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        generator = np.random.default_rng([self.seed, 2])
        order = generator.permutation(self.workers)
        # The dead from one end and the slow from the other: they overlap only where there are too many of both.
        return order[:dead], order[self.workers - slow :]

    def normals(self) -> np.random.Generator:
        """What updates (and wake-ups) are drawn from, the same for every method."""
        return np.random.Generator(np.random.SFC64([self.seed, 0]))
