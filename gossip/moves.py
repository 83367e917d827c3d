"""What exchange methods do to weights, as linear moves of the stacked state: the one definition that the matrices on
paper, the simulator and the replay of a live run share. Imports numpy only.

The stacked state has one row [D] each for the central variable w~, every worker, every message in flight and every
accumulator (downpour). A move replaces some rows by combinations of rows, all at once: S <- K S. `combination` is its
definition, the non-trivial rows of K; `apply` computes the same in the time the structure of K allows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Hashable
"""Names a row; who holds the state chooses the names."""
Array = NDArray[Any]
State = MutableMapping[Row, Array]
"""Rows by name. Reading gives the row itself, to be changed in place; assigning copies into it, or makes it."""


class Move(ABC):
    """One move of the stacked state."""

    @abstractmethod
    def combination(self) -> dict[Row, dict[Row, float]]:
        """For every row that changes, the coefficients of its new value; rows not named stay as they are."""

    def apply(self, state: State) -> None:
        """S <- K S, in place."""
        new: dict[Row, Any] = {}
        for target, terms in self.combination().items():
            total: Any = 0.0
            for source, coefficient in terms.items():
                total = total + coefficient * state[source]
            new[target] = total if terms else np.zeros_like(state[target])
        for target, value in new.items():
            state[target] = value


@dataclass(frozen=True, slots=True)
class Copy(Move):
    """target <- source: a push (the message is a snapshot of its sender), or a fetch of w~ (downpour)."""

    target: Row
    source: Row

    def combination(self) -> dict[Row, dict[Row, float]]:
        """K's row of the target is the unit vector of the source."""
        return {self.target: {self.source: 1.0}}

    def apply(self, state: State) -> None:
        """Copy."""
        state[self.target] = state[self.source]


@dataclass(frozen=True, slots=True)
class Merge(Move):
    """target <- (1 - a) target + a source: a message is merged with weight a (thesis alg. 4)."""

    target: Row
    source: Row
    weight: float

    def combination(self) -> dict[Row, dict[Row, float]]:
        """1 - a and a."""
        return {self.target: {self.target: 1.0 - self.weight, self.source: self.weight}}

    def apply(self, state: State) -> None:
        """target += a (source - target)."""
        target = state[self.target]
        target += self.weight * (state[self.source] - target)


@dataclass(frozen=True, slots=True)
class Average(Move):
    """Every row <- the mean of all (fully synchronous, PerSyn; thesis alg. 1 and 2)."""

    rows: Sequence[Row]

    def combination(self) -> dict[Row, dict[Row, float]]:
        """Every row of K is (1/M, ..., 1/M)."""
        share = 1.0 / len(self.rows)
        return {target: dict.fromkeys(self.rows, share) for target in self.rows}

    def apply(self, state: State) -> None:
        """One pass to add up, one to hand out."""
        mean = np.zeros_like(state[self.rows[0]])
        for row in self.rows:
            mean += state[row]
        mean /= len(self.rows)
        for row in self.rows:
            state[row] = mean


@dataclass(frozen=True, slots=True)
class Elastic(Move):
    """w_m <- w_m - alpha (w_m - w~) for the given workers and w~ <- w~ + alpha sum_m (w_m - w~), from the same old
    values (EASGD): all workers in the synchronous form, one in the asynchronous form.
    """

    rows: Sequence[Row]
    center: Row
    alpha: float

    def combination(self) -> dict[Row, dict[Row, float]]:
        """[[1 - n alpha, alpha 1^T], [alpha 1, (1 - alpha) I]] for n workers."""
        moved: dict[Row, dict[Row, float]] = {
            row: {row: 1.0 - self.alpha, self.center: self.alpha} for row in self.rows
        }
        drawn: dict[Row, float] = dict.fromkeys(self.rows, self.alpha)
        return {**moved, self.center: {self.center: 1.0 - len(self.rows) * self.alpha, **drawn}}

    def apply(self, state: State) -> None:
        """The elastic forces first, then both moves."""
        center = state[self.center]
        forces = [self.alpha * (state[row] - center) for row in self.rows]
        for row, force in zip(self.rows, forces, strict=True):
            w = state[row]
            w -= force
            center += force


@dataclass(frozen=True, slots=True)
class Flush(Move):
    """w~ <- w~ + accumulator, accumulator <- 0: a push of downpour (Dean et al. 2012)."""

    center: Row
    accumulator: Row

    def combination(self) -> dict[Row, dict[Row, float]]:
        """The accumulator is zero at a consensus, so its coefficient does not count in w~'s row sum."""
        return {self.center: {self.center: 1.0, self.accumulator: 1.0}, self.accumulator: {}}


@dataclass(frozen=True, slots=True)
class Blend(Move):
    """target <- sum_j c_j row_j: one row of any matrix."""

    target: Row
    terms: Mapping[Row, float]

    def combination(self) -> dict[Row, dict[Row, float]]:
        """The row as given."""
        return {self.target: dict(self.terms)}


@dataclass(frozen=True, slots=True)
class Mix(Move):
    """rows <- K rows for any matrix K of the user's own."""

    rows: Sequence[Row]
    matrix: Array

    def combination(self) -> dict[Row, dict[Row, float]]:
        """The rows of K that are not those of the identity."""
        identity = np.eye(len(self.rows))
        return {
            target: {source: float(k) for source, k in zip(self.rows, coefficients, strict=True) if k}
            for target, coefficients, unit in zip(self.rows, self.matrix, identity, strict=True)
            if not np.array_equal(coefficients, unit)
        }


def dense(move: Move, order: Sequence[Row]) -> NDArray[np.float64]:
    """K of a move as an array.

    Args:
        move: names rows of `order` only.
        order: of rows and columns.

    Returns:
        [n, n] for n rows.
    """
    place = {row: index for index, row in enumerate(order)}
    matrix = np.eye(len(order))
    for target, terms in move.combination().items():
        matrix[place[target]] = 0.0
        for source, coefficient in terms.items():
            matrix[place[target], place[source]] = coefficient
    return matrix
