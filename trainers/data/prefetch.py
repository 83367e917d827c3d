"""Reading a source batch by batch, in this process or in loader processes.

Imports sampling, sources and trainers.generators.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from trainers.data.sampling import Indices, Order
from trainers.data.sources import Batch, DatasetSource, Source
from trainers.generators import seed_all

Key = tuple[Indices, int | None]


class _Reader(Dataset[Batch]):
    """Reads whole batches; a loader process seeds itself before each, so that a batch is the same whoever reads it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, key: Key) -> Batch:
        indices, seed = key
        if seed is not None and get_worker_info() is not None:
            seed_all(seed)
        return self._source.read(indices)


class _Keys:
    """The endless keys of a training stream from a position onwards."""

    def __init__(self, order: Order, epoch: int, position: int) -> None:
        self._order, self._start = order, (epoch, position)

    def __iter__(self) -> Iterator[Key]:
        for epoch, position, indices in self._order.batches(*self._start):
            yield indices, int(self._order.loading(epoch, position).integers(2**63))


def _unchanged(batch: Any) -> Any:
    return batch


def _read(source: Source, keys: Iterable[Key], workers: int) -> Iterator[Batch]:
    if not workers:
        return (source.read(indices) for indices, _ in keys)
    return iter(
        DataLoader(
            _Reader(source),
            batch_size=None,
            sampler=keys,
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=source.setup if isinstance(source, DatasetSource) else None,
            # Its own generator: the default would draw from the process's, which belongs to the training.
            generator=torch.Generator(),
        )
    )


def training(source: Source, order: Order, epoch: int, position: int, workers: int) -> Iterator[Batch]:
    """Raw training batches without end; dropping the iterator ends its loader processes."""
    return _read(source, _Keys(order, epoch, position), workers)


def once(source: Source, batch_size: int, workers: int) -> Iterator[Batch]:
    """Raw batches of all samples in order, the last one as short as it comes."""
    starts = range(0, len(source), batch_size)
    keys = [(np.arange(start, min(start + batch_size, len(source))), None) for start in starts]
    return _read(source, keys, workers)
