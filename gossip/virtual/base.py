"""What the simulator asks of a method, and the methods in which all workers meet. Imports gossip.moves and matrices.

A method does its moves at up to three points of a step: before the gradient is taken (mail is read, w~ is fetched),
between the gradient and the local update (the elastic force of Zhang et al.), and after the update.
"""

from __future__ import annotations

from typing import Any

from gossip.matrices import vectors
from gossip.methods.base import MethodConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.matrix import MatrixConfig
from gossip.methods.persyn import PerSynConfig
from gossip.moves import Average, Elastic, Mix
from gossip.virtual.state import Table
from gossip.virtual.turns import Round, Turn


class Virtual:
    """All workers' side of a method that never exchanges; base of those that do.

    Args:
        config: the method's options.
        table: the state, with `beside(workers)` rows beside the workers.

    Attributes:
        living: workers that take part.
        sent: whole vectors sent so far, in all repeats together.
    """

    def __init__(self, config: MethodConfig, table: Table) -> None:
        self.table = table
        self.workers = table.workers
        self.center = table.workers
        self.living: range | list[int] = range(table.workers)
        self.sent = 0.0
        self.setup(config)

    def setup(self, config: Any) -> None:
        """Prepare the method's own state."""

    @staticmethod
    def beside(workers: int) -> int:
        """Rows beside the workers."""
        return 0

    @property
    def nbytes(self) -> int:
        """Memory of the method's own arrays."""
        return 0

    def before_gradient(self, turn: Turn) -> None:
        """Moves that the gradient sees."""

    def before_update(self, turn: Turn) -> None:
        """Moves that the gradient does not see."""

    def accumulate(self, turn: Turn, updates: Any) -> None:
        """Take note of the local updates, [R, M, D] in a round and [R, D] in a tick."""

    def after_update(self, turn: Turn) -> None:
        """Moves that see the local step."""


class FullySync(Virtual):
    """Average after every step (thesis alg. 1)."""

    def after_update(self, turn: Turn) -> None:
        """Every single step; one worker's alone has its share of the cost."""
        self._average(1.0 if isinstance(turn, Round) else 1.0 / len(self.living))

    def _average(self, share: float = 1.0) -> None:
        Average(self.living).apply(self.table.everywhere)
        self.sent += share * 2 * (len(self.living) - 1) * len(self.table.rows)


class PerSyn(FullySync):
    """Average at the end of the rounds the schedule names (thesis alg. 2)."""

    def setup(self, config: PerSynConfig) -> None:
        """Take the schedule."""
        self._synchronises = config.synchronises

    def after_update(self, turn: Turn) -> None:
        """Meet when it is the turn."""
        if turn.round is not None and self._synchronises(turn.round):
            self._average()


class EASGD(Virtual):
    """All workers and w~ move together at the end of every tau-th round."""

    def setup(self, config: EASGDConfig) -> None:
        """Take alpha for M workers; refused when it diverges."""
        self._alpha, self._tau = config.rate(self.workers), config.tau
        self._first = config.order == "before_gradient"

    @staticmethod
    def beside(workers: int) -> int:
        """w~."""
        return 1

    def before_update(self, turn: Turn) -> None:
        """The force at the weights the gradient was taken at."""
        if self._first:
            self._move(turn)

    def after_update(self, turn: Turn) -> None:
        """The force at the weights after the local step."""
        if not self._first:
            self._move(turn)

    def _move(self, turn: Turn) -> None:
        if turn.round is not None and (turn.round + 1) % self._tau == 0:
            Elastic(self.living, self.center, self._alpha).apply(self.table.everywhere)
            self.sent += 2 * (len(self.living) - 1) * len(self.table.rows)


class Matrix(Virtual):
    """K(t) of a schedule of the user's own at the end of every round."""

    def setup(self, config: MatrixConfig) -> None:
        """Try the schedule."""
        config.check(self.workers)
        self._matrix = config.matrix

    @staticmethod
    def beside(workers: int) -> int:
        """w~."""
        return 1

    def after_update(self, turn: Turn) -> None:
        """One matrix."""
        matrix = None if turn.round is None else self._matrix(turn.round, self.workers)
        if matrix is not None:
            Mix((self.center, *range(self.workers)), matrix).apply(self.table.everywhere)
            self.sent += vectors(matrix) * len(self.table.rows)
