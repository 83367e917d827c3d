"""A shard's part of the central variable as a file of the job, so that it outlives the process that moves it.

Imports gossip.directory and torch. The file holds two vectors and two records, used in turn: a move writes what is new
into the one that is not in use and then makes it the present one with a single aligned store. Whoever kills the server
in the middle of a move leaves the state before it, or after it. Its 64-bit words:

    header    [HEADER]             what w~ is, and which record is the present one
    left      [seats]              in which order workers have left; 0 for those that have not
    records   [2, RECORD + 2 seats] the present vector, moves made, and each seat's last request with its move's number
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gossip.directory import map_file
from gossip.layout import WORD

_MAGIC = 0x676F7367_63656E31
_HEADER = 8
_COMMIT, _LENGTH, _WEIGHTS, _EARLIER, _TYPE, _DIMENSION, _FINGERPRINT = range(1, _HEADER)
_RECORD = 2
_WHICH, _MOVES = range(_RECORD)
_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_ALIGNED = 64


class Part(NamedTuple):
    """What a shard begins with.

    Attributes:
        vector: [d], a slice of w~.
        weights: of its elements that are parameters; they come first, the buffers behind them.
        version: moves that w~ has behind it from earlier runs.
        model: elements of a whole weight vector, and its fingerprint.
    """

    vector: Tensor
    weights: int
    version: int = 0
    model: tuple[int, int] = (0, 0)


class Memory:
    """A mapped file; `create` and `open` make one.

    Attributes:
        weights: elements that are parameters; they come first.
        earlier: moves that w~ had behind it when this job began.
        model: elements of a whole weight vector, and its fingerprint.
    """

    def __init__(self, mapped: Any, seats: int) -> None:
        view = memoryview(mapped)
        records = _HEADER + seats
        self._words = view[: WORD * _words(seats)].cast("Q")
        self._left = self._words[_HEADER:records]
        size = _RECORD + 2 * seats
        self._records = [self._words[records + half * size : records + (half + 1) * size] for half in (0, 1)]
        self._seats = seats
        dtype, length = _TYPES[self._words[_TYPE]], self._words[_LENGTH]
        whole = torch.frombuffer(mapped, dtype=torch.uint8)
        begin, step = _ahead(seats), _aligned(length * dtype.itemsize)
        self._vectors = [
            whole[begin + half * step : begin + half * step + length * dtype.itemsize].view(dtype) for half in (0, 1)
        ]
        self.weights, self.earlier = self._words[_WEIGHTS], self._words[_EARLIER]
        self.model = (self._words[_DIMENSION], self._words[_FINGERPRINT])

    @classmethod
    def create(cls, path: Path, part: Part, seats: int) -> Memory:
        """A file with `part`, which appears whole or not at all.

        Raises:
            ValueError: shared memory is too small.
        """
        vector = part.vector
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        mapped = map_file(draft, size(len(vector) * vector.dtype.itemsize, seats), create=True)
        words = memoryview(mapped)[: WORD * _HEADER].cast("Q")
        words[_LENGTH], words[_WEIGHTS], words[_EARLIER] = len(vector), part.weights, part.version
        words[_TYPE] = _TYPES.index(vector.dtype)
        words[_DIMENSION], words[_FINGERPRINT] = part.model
        memory = cls(mapped, seats)
        memory.vector.copy_(vector)
        words[0] = _MAGIC
        draft.rename(path)
        return memory

    @classmethod
    def open(cls, path: Path, seats: int) -> Memory | None:
        """What an earlier server has left; None where there was none."""
        try:
            mapped = map_file(path, path.stat().st_size)
        except FileNotFoundError:
            return None
        memory = cls(mapped, seats)
        assert memory._words[0] == _MAGIC, f"{path} holds something else"
        return memory

    @property
    def _record(self) -> memoryview:
        return self._records[self._words[_COMMIT] & 1]

    @property
    def vector(self) -> Tensor:
        """w~ as it is, [d]."""
        return self._vectors[self._record[_WHICH]]

    @property
    def spare(self) -> Tensor:
        """[d], where a move writes what w~ is to be."""
        return self._vectors[1 - self._record[_WHICH]]

    @property
    def moves(self) -> int:
        """Made in this job."""
        return int(self._record[_MOVES])

    def commit(self, seat: int, request: int, moved: bool) -> None:
        """One more move has been made, at the request of this seat; `moved` if it is the spare that now holds w~."""
        old, new = self._record, self._records[1 - (self._words[_COMMIT] & 1)]
        new[:] = old
        new[_WHICH] = old[_WHICH] ^ moved
        new[_MOVES] = old[_MOVES] + 1
        new[_RECORD + seat] = request
        new[_RECORD + self._seats + seat] = new[_MOVES]
        self._words[_COMMIT] += 1

    def last(self, seat: int) -> tuple[int, int]:
        """The seat's last request that was met, and the number of its move."""
        record = self._record
        return int(record[_RECORD + seat]), int(record[_RECORD + self._seats + seat])

    def left(self, seat: int) -> int:
        """As the how-manieth this seat's worker has left, from 1; 0 if it has not."""
        return int(self._left[seat])

    def leave(self, seat: int) -> int:
        """Its worker leaves; `left`."""
        if not self._left[seat]:
            self._left[seat] = max(self._left) + 1
        return self.left(seat)

    def come(self, seat: int) -> None:
        """Its worker is here after all."""
        self._left[seat] = 0


def size(vector: int, seats: int) -> int:
    """Bytes of the file for a slice of so many bytes."""
    return _ahead(seats) + 2 * _aligned(vector)


def _words(seats: int) -> int:
    return _HEADER + seats + 2 * (_RECORD + 2 * seats)


def _ahead(seats: int) -> int:
    return _aligned(WORD * _words(seats))


def _aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED
