"""M virtual workers in one process: any exchange method, both clocks, Gaussian updates or an objective's gradients.

The moves are those of the live methods (gossip.moves, gossip.mass, the options' own schedules). Under `round` every
worker updates once a step and then exchanges, in random order; under `tick` one random worker is awake a step (thesis
2.4). With `instant` delivery a message is merged when it is sent (or arrives); with `queued` at its receiver's next
step. Imports gossip.virtual and gossip.world.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip.methods.base import MethodConfig
from gossip.virtual import virtual
from gossip.virtual.gossip import Delivery, GoSGD, Gossiping
from gossip.virtual.state import Table
from gossip.virtual.turns import Round, Tick, Turn
from gossip.world import Logistic, Quadratic, World

__all__ = ["Logistic", "Quadratic", "Result", "Simulation", "World", "compare", "simulate"]

_BLOCK = 1 << 18
"""Normals drawn at a time under `tick`."""
_FEW = 1000
"""Workers whose weights can be added up in their own precision."""


@dataclass(frozen=True)
class Result:
    """What one method did.

    Attributes:
        config: its options.
        steps: [T], after how many steps the error was measured.
        errors: [R, T] consensus error epsilon of each repeat.
        events: local steps made, each with its exchange, in all repeats together.
        messages: vectors sent for each of them.
        seconds: of processor time they took, measuring not counted.
        nbytes: memory of the state and of what is counted for each worker.
    """

    config: MethodConfig
    steps: NDArray[np.int64]
    errors: NDArray[np.float64]
    events: int
    messages: float
    seconds: float
    nbytes: int

    @property
    def mean(self) -> NDArray[np.float64]:
        """[T], over the repeats."""
        return np.asarray(self.errors.mean(0))

    @property
    def sem(self) -> NDArray[np.float64] | None:
        """[T], the standard error of `mean`; None with a single repeat."""
        repeats = len(self.errors)
        return np.asarray(self.errors.std(0, ddof=1) / repeats**0.5) if repeats > 1 else None

    def level(self, since: int = 0) -> tuple[float, float | None]:
        """The mean error from a step on, and its standard error over the repeats (None with a single one)."""
        levels = self.errors[:, self.steps >= since].mean(1)
        return float(levels.mean()), float(levels.std(ddof=1) / len(levels) ** 0.5) if len(levels) > 1 else None

    @property
    def microseconds_per_event(self) -> float:
        """Processor time of a local step with its exchange."""
        return 1e6 * self.seconds / max(1, self.events)


class Simulation:
    """One method at work in all repeats.

    Args:
        config: the method's options.
        world: everything else.
    """

    def __init__(self, config: MethodConfig, world: World) -> None:
        kind = virtual(config)
        world.check(config)
        self.config = config
        self.world = world
        self.table = Table(world.repeats, world.workers, kind.beside(world.workers), world.dimension, world.dtype)
        if world.start is not None:
            self.table.array[:] = world.start
        self.method = kind(config, self.table)
        if isinstance(self.method, GoSGD):
            self.method.delivery = Delivery(world.delivery == "queued", world.delays)
        if isinstance(self.method, Gossiping):
            self.method.generator.seed(repr((world.seed, "peers")))
        self.generator = np.random.default_rng([world.seed, 1])
        self.counts = np.zeros((world.repeats, world.workers), np.int64)
        self.events = 0
        self.seconds = 0.0
        self.dead, self.slow = world.unfortunate()
        self._mask: NDArray[Any] | None = None

    @property
    def weights(self) -> NDArray[Any]:
        """[R, M, D]."""
        return self.table.weights

    def round(self, step: int, noise: NDArray[Any]) -> None:
        """Every worker makes a local step.

        Args:
            step: counted from 0.
            noise: [R, M, D], of the updates or of the gradients.
        """
        began = time.thread_time()
        self._bury(step)
        mask = None
        if len(self.slow) or len(self.method.living) < self.world.workers:
            mask = np.ones(self.counts.shape, bool)
            mask[:, self.slow] = self.generator.random((len(mask), len(self.slow))) < self.world.slow_probability
            mask[:, self.dead] &= step < self.world.dead_from
        self._step(Round(step, self.counts, self.generator, mask), self.weights, noise)
        self.events += self.counts.size if mask is None else int(mask.sum())
        self.seconds += time.thread_time() - began

    def tick(self, step: int, woken: NDArray[Any], noise: NDArray[Any]) -> None:
        """One worker of each repeat makes a local step.

        Args:
            woken: [R], which one; the dead, and most of the time the slow, stay asleep.
            noise: [R, D].
        """
        began = time.thread_time()
        self._bury(step)
        if len(self.slow) or len(self.method.living) < self.world.workers:
            late = self.generator.random(len(woken)) >= self.world.slow_probability
            asleep = np.isin(woken, self.slow) & late
            asleep |= np.isin(woken, self.dead) & (step >= self.world.dead_from)
            woken = np.where(asleep, -1, woken)
        turn = Tick(step, self.counts, self.generator, woken)
        self._step(turn, None, noise)
        self.events += len(turn.repeats)
        self.seconds += time.thread_time() - began

    def _step(self, turn: Turn, weights: NDArray[Any] | None, noise: NDArray[Any]) -> None:
        method, objective = self.method, self.world.objective
        method.before_gradient(turn)
        updates = noise
        if objective is not None:
            if weights is None:
                assert isinstance(turn, Tick)
                updates = np.zeros_like(noise)
                at = self.weights[turn.repeats, turn.workers]
                updates[turn.repeats] = -self.world.step_size * (objective.gradient(at) + noise[turn.repeats])
            else:
                updates = (-self.world.step_size * (objective.gradient(weights) + noise)).astype(noise.dtype)
        method.before_update(turn)
        turn.add(self.weights, updates)
        method.accumulate(turn, updates)
        method.after_update(turn)
        turn.count()

    def _bury(self, step: int) -> None:
        if step == self.world.dead_from and len(self.dead):
            gone = set(self.dead.tolist())
            self.method.living = [worker for worker in self.method.living if worker not in gone]
            if isinstance(self.method, Gossiping):
                for worker in gone:
                    self.method.alive[worker] = 0

    def error(self) -> NDArray[np.float64]:
        """[R] epsilon = sum_m ||w_m - mean||^2 over the living workers (thesis section 2.5.1); costs M D a repeat."""
        weights = self.weights
        if len(self.method.living) < self.world.workers:
            weights = weights[:, np.asarray(self.method.living)]
        # sum ||g_m||^2 - ||sum g_m||^2 / M with the gaps g to the first worker: w~ wanders far from 0, they do not.
        gaps = weights - weights[:, :1]
        total = gaps.sum(1, dtype=gaps.dtype if gaps.shape[1] <= _FEW else np.float64)
        squares = np.einsum("rmd,rmd->rm", gaps, gaps).sum(1, dtype=np.float64)
        mean_square = np.einsum("rd,rd->r", total, total).astype(np.float64) / gaps.shape[1]
        return np.asarray(np.maximum(0.0, squares - mean_square))

    def result(self, steps: Sequence[int], errors: Sequence[NDArray[np.float64]]) -> Result:
        """Everything that was measured."""
        measured = np.array(errors, np.float64).reshape(len(steps), self.world.repeats).T
        return Result(
            config=self.config,
            steps=np.array(steps, np.int64),
            errors=measured,
            events=self.events,
            messages=self.method.sent / max(1, self.events),
            seconds=self.seconds,
            nbytes=self.table.nbytes + self.counts.nbytes + self.method.nbytes,
        )


def simulate(config: MethodConfig, world: World, measure: Iterable[int] | None = None) -> Result:
    """Run one method.

    Args:
        config: its options, such as `GoSGDConfig(rho=0.1)`.
        world: workers, clock, delivery, updates, what goes wrong.
        measure: the steps (1 to `world.steps`) after which the consensus error is taken; after each by default.

    Raises:
        ValueError: an option does not fit the method, or the number of workers.
    """
    return _run([Simulation(config, world)], world, measure)[0]


def compare(configs: Sequence[MethodConfig], world: World, measure: Iterable[int] | None = None) -> list[Result]:
    """Run several methods on the same random updates, so that their difference has less noise than either.

    Args:
        configs: options of each.
        world: see `simulate`.
        measure: see `simulate`.
    """
    return _run([Simulation(config, world) for config in configs], world, measure)


def _run(simulations: list[Simulation], world: World, measure: Iterable[int] | None) -> list[Result]:
    measured = sorted(set(range(1, world.steps + 1) if measure is None else measure))
    if measured and not 1 <= measured[0] <= measured[-1] <= world.steps:
        raise ValueError(f"got steps {measured[0]} to {measured[-1]} to measure at, expected 1 to {world.steps}")
    errors: list[list[NDArray[np.float64]]] = [[] for _ in simulations]
    left = iter(measured)
    due = next(left, 0)
    for done in _rounds(simulations, world) if world.clock == "round" else _ticks(simulations, world):
        if done == due:
            due = next(left, 0)
            for simulation, found in zip(simulations, errors, strict=True):
                found.append(simulation.error())
    return [simulation.result(measured, found) for simulation, found in zip(simulations, errors, strict=True)]


def _rounds(simulations: list[Simulation], world: World) -> Iterable[int]:
    generator = world.normals()
    noise = np.empty((world.repeats, world.workers, world.dimension), world.dtype)
    for step in range(world.steps):
        generator.standard_normal(out=noise, dtype=noise.dtype.type)
        noise *= world.deviation
        for simulation in simulations:
            simulation.round(step, noise)
        yield step + 1


def _ticks(simulations: list[Simulation], world: World) -> Iterable[int]:
    generator = world.normals()
    block = max(1, min(world.steps, _BLOCK // (world.repeats * world.dimension)))
    noise = np.empty((block, world.repeats, world.dimension), world.dtype)
    for step in range(world.steps):
        if step % block == 0:
            woken = generator.integers(world.workers, size=(block, world.repeats))
            generator.standard_normal(out=noise, dtype=noise.dtype.type)
            noise *= world.deviation
        for simulation in simulations:
            simulation.tick(step, woken[step % block], noise[step % block])
        yield step + 1
