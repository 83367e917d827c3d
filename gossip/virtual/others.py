"""The workers that one worker can send to, without a list of them. Imports nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any


class Others(Sequence[int]):
    """Some workers in ascending order, without one of them; made and read at the same cost for any number of them.

    Args:
        workers: all of them, in ascending order.
        without: who is left out.
    """

    def __init__(self, workers: Sequence[int], without: int) -> None:
        self._workers = workers
        self._gap = without if isinstance(workers, range) else bisect_left(workers, without)

    def __len__(self) -> int:
        return len(self._workers) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self._workers[place + (place >= self._gap)]

    def __contains__(self, worker: object) -> bool:
        if not isinstance(worker, int):
            return False
        place = bisect_left(self._workers, worker)
        return place != self._gap and place < len(self._workers) and self._workers[place] == worker
