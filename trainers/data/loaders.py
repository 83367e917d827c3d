"""Data that comes out of a loader of the user's as the loader decides: iterable data sets, samplers of the user's own.

Imports base, prefetch, sampling and sources.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from trainers.data.base import Batches, Data
from trainers.data.sampling import Sampling, stream
from trainers.data.sources import Batch, as_batch, eight_bit


def is_plain(loader: DataLoader[Any]) -> bool:
    """Whether a loader only says what to read and in what batches, so that we may draw the order ourselves."""
    sampler = loader.sampler
    return (
        type(loader) is DataLoader
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader.batch_sampler) is BatchSampler
        and (type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement))
    )


def length(loader: DataLoader[Any]) -> int | None:
    """Batches of one pass, None where the data set does not say."""
    try:
        return len(loader)
    except TypeError:
        return None


def samples(loader: DataLoader[Any]) -> int | None:
    """Samples of one pass, None where the data set does not say."""
    try:
        return len(loader.sampler)  # type: ignore[arg-type]
    except TypeError:
        steps = length(loader)
        return None if steps is None else steps * (loader.batch_size or 1)


class LoaderData(Data):
    """Two loaders, each pass over the training one being an epoch.

    Raises:
        ValueError: the loader gives no batches, or no (x, y) of tensors.
    """

    def __init__(
        self,
        train: DataLoader[Any],
        test: DataLoader[Any],
        classes: int,
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        first = next(converted(own_copy(test), classes), None)
        if first is None:
            raise ValueError("the test loader gives no batches")
        super().__init__(
            tuple(first[0].shape[1:]),
            classes,
            train_size=samples(train),
            test_size=samples(test),
            batch_size=batch_size,
            device=device,
        )
        self._train, self._test = train, test

    def _batches(self, rank: int, world_size: int, seed: int, incarnation: int, sampling: Sampling) -> Batches:
        if sampling == "sharded" and world_size > 1:
            raise ValueError(
                "train.sampling 'sharded' needs a data set with random access, this loader draws its own order;"
                " return a map-style Dataset, split by rank in your loader, or use 'independent'"
            )
        return LoaderBatches(self._train, self.classes, self.batch_size, (seed, rank, incarnation), self.device)

    def test_batches(self) -> Iterator[Batch]:
        return converted(own_copy(self._test), self.classes, self.device)

    def train_eval_batches(self) -> Iterator[Batch]:
        return converted(own_copy(self._train), self.classes, self.device)


class LoaderBatches(Batches):
    """Pass after pass over a loader; its generators are seeded anew before each pass, so that a pass can be repeated.

    A resume repeats the pass and drops the batches already seen: exact as long as the loader's randomness comes
    from its own generators or from its loader processes.
    """

    def __init__(
        self, loader: DataLoader[Any], classes: int, batch_size: int, key: tuple[int, int, int], device: torch.device
    ) -> None:
        super().__init__(length(loader), batch_size)
        self._loader, self._classes, self._key, self._device = own_copy(loader), classes, key, device
        self._pass: Iterator[Batch] | None = None
        self._closed = False

    def _seek(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, 0
        self._pass = self._begin()
        for _ in range(position):
            if next(self._pass, None) is None:
                raise ValueError(f"the training loader gives fewer batches than the {position} of the saved position")
        self._position = position

    def _begin(self) -> Iterator[Batch]:
        seed, *own = self._key
        reseed(self._loader, int(stream(seed, *own, self._epoch).integers(2**63)), self._epoch)
        return converted(self._loader, self._classes, self._device)

    def __next__(self) -> Batch:
        assert not self._closed, "a closed stream was asked for a batch"
        if self._pass is None:
            self._pass = self._begin()
        batch = next(self._pass, None)
        if batch is None:
            if self._position == 0:
                raise ValueError("the training loader gives no batches")
            self._epoch, self._position = self._epoch + 1, 0
            self._pass = None
            return next(self)
        self._position += 1
        return batch

    def close(self) -> None:
        self._closed = True
        # A copy without iterator takes the place: a loader with persistent workers keeps its processes.
        self._pass, self._loader = None, own_copy(self._loader)


def own_copy(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of the same data set with samplers and loader processes of its own, for one stream of batches."""
    copied = copy.copy(loader)
    sampler, batches = copy.copy(loader.sampler), copy.copy(loader.batch_sampler)
    if isinstance(batches, BatchSampler):
        batches.sampler = sampler if batches.sampler is loader.sampler else copy.copy(batches.sampler)
    # DataLoader refuses to have its samplers set by name.
    vars(copied).update(sampler=sampler, batch_sampler=batches, _iterator=None)
    return copied


def reseed(loader: DataLoader[Any], seed: int, epoch: int) -> None:
    """Seeds every generator a loader draws from, and tells a distributed sampler the epoch."""
    generator = torch.Generator().manual_seed(seed)
    loader.generator = generator
    parts: list[Any] = [loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    for part in parts:
        if hasattr(part, "generator"):
            part.generator = generator
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def converted(loader: DataLoader[Any], classes: int, device: torch.device | None = None) -> Iterator[Batch]:
    """One pass over a loader as (x float32, y int64) on a device."""
    for pair in loader:
        x, y = as_batch(pair, type(loader.dataset).__name__, classes)
        scaling = eight_bit(x)
        yield scaling(x.to(device)), y.to(device)
