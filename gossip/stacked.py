"""The stacked state in memory, and views of some of its coordinates. Imports gossip.moves and numpy."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

import numpy as np

from gossip.moves import Array, Row, State


class Stack(dict[Row, Array]):
    """The stacked state, in float64: assigning copies."""

    def __setitem__(self, row: Row, value: Array) -> None:
        super().__setitem__(row, np.array(value, np.float64))


class Part(MutableMapping[Row, Array]):
    """Some coordinates of the state, such as those that one shard of the central variable covers.

    Args:
        state: of which it is a view.
        part: which coordinates.
    """

    def __init__(self, state: State, part: slice) -> None:
        self._state, self._part = state, part

    def __getitem__(self, row: Row) -> Array:
        return self._state[row][self._part]

    def __setitem__(self, row: Row, value: Array) -> None:
        self._state[row][self._part] = value

    def __delitem__(self, row: Row) -> None:
        raise TypeError("rows of a part are its state's")

    def __iter__(self) -> Iterator[Row]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)
