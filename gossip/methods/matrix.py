"""Any schedule of communication matrices that the user gives (thesis (2.9), (2.10)).

W(t+1) = K(t) W(t+1/2) with K(t) [M+1, M+1] row-stochastic; row and column 0 belong to w~, which worker 0 keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from configs.base import check_call, import_callable
from gossip.matrices import Matrix, keeps_consensus
from gossip.methods.base import METHODS, MethodConfig, log
from gossip.methods.collective import Collective

_TOLERANCE = 1e-6


class MatrixConfig(MethodConfig):
    """Options of `matrix`.

    Attributes:
        schedule: `package.module:function`, called as `function(step, workers)` after each local step, counted from 0.
            It returns K(t), [M+1, M+1] with w~ in row and column 0 or [M, M] without it, or None for no exchange. All
            workers must get the same matrices: draw random ones from a generator seeded with the step.
    """

    method: Literal["matrix"] = "matrix"
    schedule: str

    def check(self, workers: int) -> None:
        """Find the schedule and try its first matrix."""
        function = import_callable("schedule", self.schedule, "a function of step and workers")
        check_call("schedule", self.schedule, function, 0, workers)
        self.matrix(0, workers)

    def matrix(self, step: int, workers: int) -> Matrix | None:
        """K of a step, [M+1, M+1], or None where nothing is exchanged.

        Raises:
            ValueError: the schedule gave something that does not keep a consensus.
        """
        given = import_callable("schedule", self.schedule)(step, workers)
        return None if given is None else checked(given, workers, f"{self.schedule}, step {step}")


def checked(given: Any, workers: int, where: str) -> Matrix:
    """A user's matrix as float64 [M+1, M+1], its rows divided by their sums.

    What is within the tolerance is rounding, and would add up: thirds of float32 let equal weights grow by 3 % in a
    million steps.

    Args:
        given: an array, tensor or nested list.
        workers: M.
        where: it comes from, for the error.

    Raises:
        ValueError: its shape is wrong, it has an entry that is not finite or below 0, or a row whose sum is not 1.
    """
    try:
        matrix = np.array(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: got {type(given).__name__}, expected a matrix of numbers: {error}") from None
    if matrix.shape == (workers, workers):
        whole = np.eye(workers + 1)
        whole[1:, 1:] = matrix
        matrix = whole
    if matrix.shape != (workers + 1, workers + 1):
        size = f"[{workers + 1}, {workers + 1}] (row 0 for w~) or [{workers}, {workers}]"
        raise ValueError(f"{where}: got a matrix of shape {list(matrix.shape)}, expected {size} for {workers} workers")
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        row, column = np.argwhere(~(np.isfinite(matrix) & (matrix >= 0)))[0]
        raise ValueError(f"{where}: got {matrix[row, column]:g} in row {row}, column {column}, expected 0 or more")
    if not keeps_consensus(matrix, _TOLERANCE):
        row = int(np.argmax(np.abs(matrix.sum(1) - 1)))
        raise ValueError(
            f"{where}: got a sum of {matrix[row].sum():g} in row {row}, expected 1: equal weights have to stay equal;"
            " divide the row by its sum"
        )
    scaled: Matrix = matrix / matrix.sum(1, keepdims=True)
    return scaled


@METHODS.register(MatrixConfig)
class MatrixExchange(Collective):
    """Every worker sends its weights to those whose row of K names it, and takes its own row's combination.

    A message goes to each worker m with K[m, j] != 0, see gossip.matrices.vectors. w~ starts at the common initial
    weights and is kept by worker 0.
    """

    Options = MatrixConfig
    options: MatrixConfig

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept = {self.job.rank + 1: self.flat.vector}
        if self.job.rank == 0:
            self._kept[0] = torch.empty_like(self.flat.vector)
        self._central = self._restored = False
        self._exchanges = self._sent = 0

    def start(self, steps: int = 0, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Join the process group; w~ starts where the workers do, or where a checkpoint says."""
        received = super().start(steps, interrupted)
        if self.job.rank == 0 and (steps == 0 or not self._restored):
            self._kept[0].copy_(self.flat.vector)
        return received

    def step(self) -> None:
        """Count the step and make the exchange the schedule asks for."""
        self.count_step()
        matrix = self.options.matrix(self.steps - 1, self.job.workers)
        if matrix is not None:
            self._exchange(matrix)
            self._exchanges += 1

    def _exchange(self, matrix: Matrix) -> None:
        keepers = [0, *range(self.job.workers)]
        rank, known, operations = self.job.rank, dict(self._kept), []
        there = self.flat.vector.device
        by_gloo = dist.is_initialized() and dist.get_backend() == "gloo"
        way = torch.device("cpu") if by_gloo else there  # gloo's sends read no GPU's memory
        for source, keeper in enumerate(keepers):
            readers = {keepers[row] for row in np.flatnonzero(matrix[:, source])} - {keeper}
            if keeper == rank:
                sent = self._kept[source].to(way)
                operations += [dist.P2POp(dist.isend, sent, reader, tag=source) for reader in sorted(readers)]
                self._sent += len(readers)
            elif rank in readers:
                known[source] = torch.empty_like(self.flat.vector, device=way)
                operations.append(dist.P2POp(dist.irecv, known[source], keeper, tag=source))
        for work in dist.batch_isend_irecv(operations) if operations else []:
            work.wait()
        known = {source: vector.to(there) for source, vector in known.items()}
        new = {row: combine(matrix[row], known) for row in self._kept}
        for row, value in new.items():
            self._kept[row].copy_(value)
        self._central |= not np.array_equal(matrix[0], np.eye(len(matrix))[0])
        self._met("mix", matrix=matrix.tolist())

    def _leave(self, timeout_s: float) -> bool:
        if not self._central:
            return super()._leave(timeout_s)
        inference = np.eye(self.job.workers + 1)
        inference[1] = inference[0]  # worker 0's model takes w~
        self._exchange(inference)
        return self._part()

    def stats(self) -> dict[str, float | None]:
        """How often the schedule exchanged, and how many vectors this worker sent."""
        return {"exchanges": self._exchanges, "sent": self._sent}

    def state_dict(self) -> dict[str, Any]:
        """w~, where it is kept, and whether the schedule has moved it."""
        kept = {"center": self._kept[0].clone()} if 0 in self._kept else {}
        return {"central": self._central, **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; where another worker did, w~ starts anew from worker 0's weights."""
        self._expect(state, "central")
        self._central = state["central"]
        if 0 not in self._kept:
            return
        if "center" in state:
            self._kept[0].copy_(state["center"])
            self._restored = True
        elif self._central:
            log.warning("matrix: w~ starts anew from worker 0's weights: its checkpoint is another worker's")


def combine(coefficients: NDArray[np.float64], rows: Mapping[int, Tensor]) -> Tensor:
    """sum_j k_j row_j over the rows with k_j != 0.

    Args:
        coefficients: [n], at least one not zero.
        rows: those that are needed, each [D].
    """
    total: Tensor | None = None
    for source in np.flatnonzero(coefficients):
        k, row = float(coefficients[source]), rows[int(source)]
        total = row * k if total is None else total.add_(row, alpha=k)
    assert total is not None
    return total
