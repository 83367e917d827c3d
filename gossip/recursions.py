"""Exact recursions of the second moments of exchangeable workers, C <- K (C + Q) K^T, for gossip.theory.

Every coordinate of the weights has the same covariance C over the rows [w~; workers; accumulators], expectations over
the method's own random choices included. Workers are alike, so C has few different entries and a step is an affine
map of them: found once from the moves themselves (gossip.moves), then iterated in no time. Imports gossip.moves, numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gossip.moves import Move

Alternatives = Sequence[tuple[float, Move]]
"""Probabilities and moves of which one happens, or none with what is left of 1."""

_DOUBLINGS = 40
_CONVERGED = 1e-9


@dataclass(frozen=True)
class Step:
    """One step of a schedule; rows are 0 for w~, 1 to M for the workers, M + 1 to 2 M for accumulators.

    Attributes:
        before: moves before the update, each one of alternatives.
        updated: workers that make a local step.
        after: moves after it.
    """

    before: Sequence[Alternatives]
    updated: Sequence[int]
    after: Sequence[Alternatives]


class Recursion:
    """The expected consensus error under a periodic schedule, per dimension and variance of the updates.

    Args:
        workers: M.
        schedule: the steps of one period; equal steps should be the same object.
        accumulators: whether there is one a worker, taking the same updates.
    """

    def __init__(self, workers: int, schedule: Sequence[Step], accumulators: bool = False) -> None:
        self._workers = workers
        self._groups = _groups(workers, accumulators)
        self._accumulators = accumulators
        maps = {id(step): self._map(step) for step in schedule}
        self._maps = [maps[id(step)] for step in schedule]

    def expected(self, steps: int) -> NDArray[np.float64]:
        """[steps], the error after each step from a consensus."""
        state = self._consensus()
        found = np.empty(steps)
        for step in range(steps):
            state = self._maps[step % len(self._maps)] @ state
            found[step] = self._error(state)
        return found

    def stationary(self) -> float:
        """The mean over a period in the long run; infinite where it grows without bound."""
        period = np.linalg.multi_dot(self._maps[::-1]) if len(self._maps) > 1 else self._maps[0]
        level = np.inf
        for _ in range(_DOUBLINGS):
            period = period @ period
            state, total = period @ self._consensus(), 0.0
            for one in self._maps:
                state = one @ state
                total += self._error(state)
            before, level = level, total / len(self._maps)
            if abs(level - before) <= _CONVERGED * level:
                return level
        return float("inf")

    def _consensus(self) -> NDArray[np.float64]:
        state = np.zeros(len(self._groups) + 1)
        state[-1] = 1.0
        return state

    def _error(self, state: NDArray[np.float64]) -> float:
        between = state[2] if self._workers > 1 else 0.0
        return float((self._workers - 1) * (state[1] - between))

    def _map(self, step: Step) -> NDArray[np.float64]:
        """[n + 1, n + 1], the affine map of the n different entries, with 1 as the last component."""
        made = np.zeros((len(self._groups) + 1, len(self._groups) + 1))
        made[-1, -1] = 1.0
        offset = self._entries(self._done(step, np.zeros(self._groups[0].shape)))
        for column, group in enumerate(self._groups):
            made[:-1, column] = self._entries(self._done(step, group.astype(np.float64))) - offset
        made[:-1, -1] = offset
        return made

    def _entries(self, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Averaging over all permutations of the workers: every one of them is as likely."""
        return np.array([covariance[group].mean() for group in self._groups])

    def _done(self, step: Step, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
        for alternatives in step.before:
            covariance = _mixed(covariance, alternatives)
        for worker in step.updated:
            rows = [worker, worker + self._workers] if self._accumulators else [worker]
            covariance[np.ix_(rows, rows)] += 1.0
        for alternatives in step.after:
            covariance = _mixed(covariance, alternatives)
        return covariance


def _groups(workers: int, accumulators: bool) -> list[NDArray[np.bool_]]:
    """Masks of equal entries; the first three: w~ itself, a worker itself, two workers."""
    size = 1 + workers * (1 + accumulators)
    kind = np.array([0] + [1] * workers + [2] * (size - 1 - workers))
    who = np.array([-1, *range(workers), *(range(workers) if accumulators else [])])
    same = who[:, None] == who[None, :]
    pairs = [(0, 0, True), (1, 1, True), (1, 1, False), (0, 1, False)]
    if accumulators:
        pairs += [(0, 2, False), (2, 2, True), (2, 2, False), (1, 2, True), (1, 2, False)]
    masks = []
    for first, second, alike in pairs:
        between = (kind[:, None] == first) & (kind[None, :] == second)
        masks.append((between | between.T) & (same == alike))
    return [mask for mask in masks if mask.any()]


def _mixed(covariance: NDArray[np.float64], alternatives: Alternatives) -> NDArray[np.float64]:
    """sum_i p_i K_i C K_i^T, with the identity for what is left of 1; C itself may be overwritten."""
    if len(alternatives) == 1 and alternatives[0][0] == 1.0:
        return _moved(covariance, alternatives[0][1])
    total = (1.0 - sum(chance for chance, _ in alternatives)) * covariance
    for chance, move in alternatives:
        total += chance * _moved(covariance.copy(), move)
    return total


def _moved(covariance: NDArray[np.float64], move: Move) -> NDArray[np.float64]:
    """K C K^T in place, touching only what K changes."""
    combination = move.combination()
    views: list[NDArray[Any]] = [covariance, covariance.T]
    for array in views:
        new: dict[Any, Any] = {
            target: sum((k * array[cast(int, source)] for source, k in terms.items()), np.zeros(len(array)))
            for target, terms in combination.items()
        }
        for target, row in new.items():
            array[target] = row
    return covariance
