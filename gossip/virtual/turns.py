"""Who makes a local step now: all workers (a round) or one (a tick), in every repeat. Imports numpy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
"""A repeat and a worker of it."""


class Turn(ABC):
    """One step of the simulation.

    Args:
        step: counted from 0.
        counts: [R, M], how many local steps each worker has behind it.
        generator: of the method's own choices.
    """

    def __init__(self, step: int, counts: NDArray[Any], generator: np.random.Generator) -> None:
        self.step = step
        self.counts = counts
        self.generator = generator

    @property
    @abstractmethod
    def round(self) -> int | None:
        """The round that ends with this step, counted from 0; None in the midst of one."""

    @abstractmethod
    def due(self, test: Callable[[Any], Any]) -> Iterable[Pair]:
        """Who steps now and has a count of local steps that passes `test`, in random order."""

    @abstractmethod
    def chosen(self, rate: float) -> Iterable[Pair]:
        """Those who step now, each with probability `rate`, in random order."""

    @abstractmethod
    def awake(self, repeat: int, workers: Collection[int]) -> list[int]:
        """Those of some workers that step now."""

    @abstractmethod
    def add(self, rows: NDArray[Any], updates: NDArray[Any]) -> None:
        """rows += updates for those who step now, with rows [R, M, D]."""

    @abstractmethod
    def count(self) -> None:
        """Note the local step."""


class Round(Turn):
    """Every worker steps, or those of `mask` [R, M]."""

    def __init__(
        self, step: int, counts: NDArray[Any], generator: np.random.Generator, mask: NDArray[Any] | None
    ) -> None:
        super().__init__(step, counts, generator)
        self._mask = mask

    @property
    def round(self) -> int | None:
        """Every step is one."""
        return self.step

    def due(self, test: Callable[[Any], Any]) -> Iterable[Pair]:
        """All at once, then shuffled."""
        return self._shuffled(test(self.counts))

    def chosen(self, rate: float) -> Iterable[Pair]:
        """One draw a worker."""
        return self._shuffled(self.generator.random(self.counts.shape, dtype=np.float32) < rate)

    def _shuffled(self, chosen: NDArray[Any]) -> Iterable[Pair]:
        pairs = np.argwhere(chosen if self._mask is None else chosen & self._mask)
        return self.generator.permutation(pairs).tolist() if len(pairs) else []

    def awake(self, repeat: int, workers: Collection[int]) -> list[int]:
        """As the mask says."""
        return [worker for worker in workers if self._mask is None or self._mask[repeat, worker]]

    def add(self, rows: NDArray[Any], updates: NDArray[Any]) -> None:
        """Updates are [R, M, D]."""
        rows += updates if self._mask is None else updates * self._mask[:, :, None]

    def count(self) -> None:
        """One more for those who stepped."""
        self.counts += 1 if self._mask is None else self._mask


class Tick(Turn):
    """In every repeat the worker `woken` [R] steps; -1 where nobody does."""

    def __init__(self, step: int, counts: NDArray[Any], generator: np.random.Generator, woken: NDArray[Any]) -> None:
        super().__init__(step, counts, generator)
        self._woken = woken.tolist()
        self.repeats = np.flatnonzero(woken >= 0)
        self.workers = woken[self.repeats]

    @property
    def round(self) -> int | None:
        """M wake-ups count as one."""
        done, rest = divmod(self.step + 1, self.counts.shape[1])
        return None if rest else done - 1

    def due(self, test: Callable[[Any], Any]) -> Iterable[Pair]:
        """One worker a repeat at most."""
        return [pair for pair in enumerate(self._woken) if pair[1] >= 0 and test(self.counts[pair])]

    def chosen(self, rate: float) -> Iterable[Pair]:
        """One draw a repeat."""
        draws = self.generator.random(len(self._woken)).tolist()
        return [pair for pair, draw in zip(enumerate(self._woken), draws, strict=True) if draw < rate and pair[1] >= 0]

    def awake(self, repeat: int, workers: Collection[int]) -> list[int]:
        """One at most, found without looking at the others."""
        woken = self._woken[repeat]
        return [woken] if woken in workers else []

    def add(self, rows: NDArray[Any], updates: NDArray[Any]) -> None:
        """Updates are [R, D]."""
        rows[self.repeats, self.workers] += updates[self.repeats]

    def count(self) -> None:
        """One more for the woken."""
        self.counts[self.repeats, self.workers] += 1
