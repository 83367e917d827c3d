"""The stacked state of a simulation: every repeat's rows in arrays, read and written by the moves of gossip.moves.

Imports gossip.moves and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

from gossip.moves import Array, Row


class Table:
    """All rows of all repeats.

    Workers, and what a method keeps beside them, stand in one array; messages in flight in another one that grows with
    their number, so that no event costs more where there are more workers.

    Args:
        repeats: R, independent runs side by side.
        workers: M, rows 0 to M - 1.
        beside: rows after them: the central variable, accumulators.
        dimension: D.
        dtype: of the weights.

    Attributes:
        array: [R, M + beside, D].
        messages: [R, capacity, D]; row M + beside + i of the state is message i.
    """

    def __init__(self, repeats: int, workers: int, beside: int, dimension: int, dtype: Any) -> None:
        self.workers = workers
        self.array = np.zeros((repeats, workers + beside, dimension), dtype)
        self.messages = np.empty((repeats, 0, dimension), dtype)
        self.rows = [Rows(self, repeat) for repeat in range(repeats)]
        self.everywhere = Rows(self, slice(None))
        self._free: list[list[int]] = [[] for _ in range(repeats)]

    @property
    def weights(self) -> Array:
        """The workers' rows, [R, M, D]."""
        return self.array[:, : self.workers]

    @property
    def nbytes(self) -> int:
        """Memory of all rows."""
        return int(self.array.nbytes + self.messages.nbytes)

    def take(self, repeat: int) -> int:
        """A row for a message."""
        if not self._free[repeat]:
            self._grow()
        return self._free[repeat].pop()

    def give(self, repeat: int, row: int) -> None:
        """The message of a row has been merged."""
        self._free[repeat].append(row)

    def _grow(self) -> None:
        repeats, had, dimension = self.messages.shape
        more = max(16, had)
        grown = np.empty((repeats, had + more, dimension), self.messages.dtype)
        grown[:, :had] = self.messages
        self.messages = grown
        first = self.array.shape[1] + had
        for free in self._free:
            free.extend(range(first, first + more))


class Rows(MutableMapping[Row, Array]):
    """The rows of one repeat, [D] each, or of all repeats at once, [R, D] each, by number."""

    def __init__(self, table: Table, repeat: int | slice) -> None:
        self._table = table
        self._repeat = repeat
        self._fixed = int(table.array.shape[1])

    def _at(self, row: Any) -> tuple[Array, Any]:
        if row < self._fixed:
            return self._table.array, (self._repeat, row)
        return self._table.messages, (self._repeat, row - self._fixed)

    def __getitem__(self, row: Row) -> Array:
        array, place = self._at(row)
        found: Array = array[place]
        return found

    def __setitem__(self, row: Row, value: Array) -> None:
        array, place = self._at(row)
        array[place] = value

    def __delitem__(self, row: Row) -> None:
        raise TypeError("rows are fixed; give a message's row back to its table")

    def __iter__(self) -> Iterator[Row]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return int(self._fixed + self._table.messages.shape[1])
