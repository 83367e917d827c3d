"""Data whose samples we draw ourselves: from tensors in memory or from a map-style Dataset.

Imports base, augment, prefetch, prepare, sampling and sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainers.data import prefetch
from trainers.data.augment import Augment, Crops, Windows
from trainers.data.base import Batches, Data
from trainers.data.prepare import check_half, limited, moved, scaled
from trainers.data.sampling import Order, Sampling
from trainers.data.sources import Batch, Scaling, Sets, Source, TensorSource


class SampledData(Data):
    """A data set with random access; see `DataConfig` and `Augment` for the options.

    Raises:
        ValueError: more training samples asked for than there are, classes out of range, or a crop that does not fit.
    """

    def __init__(
        self,
        sets: Sets,
        *,
        batch_size: int,
        eval_batch_size: int,
        train_samples: int | None = None,
        augment: Augment | None = None,
        normalize: bool | Literal["symmetric"] = True,
        loader_workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        train, test = limited(sets.train, train_samples), sets.test
        for half, name in ((train, "training"), (test, "test")):
            check_half(half, sets.classes, name)
        sample, held_out = (half.read([0])[0][0] for half in (train, test))
        if sample.shape != held_out.shape:
            raise ValueError(
                f"got test samples of shape {list(held_out.shape)}, expected {list(sample.shape)} as in training"
            )
        wanted = augment is not None and augment != Augment()
        self._crops = Crops(tuple(sample.shape), augment if wanted else None)
        super().__init__(
            self._crops.shape,
            sets.classes,
            train_size=len(train),
            test_size=len(test),
            batch_size=batch_size,
            device=device,
        )
        self._scaling, train, test = scaled(train, test, normalize, sets.full_scale)
        self._eval_batch_size, self._loader_workers = eval_batch_size, loader_workers
        self._train, self._test = train, test
        self._in_memory = isinstance(train, TensorSource) and not loader_workers
        if isinstance(train, TensorSource) and self._in_memory:
            self._train = TensorSource(self._crops.pad(train.x), train.y)
        if isinstance(test, TensorSource):
            self._test = TensorSource(self._cut(test.x).contiguous(), test.y)
        self.to(device)

    def to(self, device: torch.device | str) -> SampledData:
        """Moves what lies in memory and is not read by loader processes."""
        super().to(device)
        self._scaling = self._scaling.to(self.device)
        if self._in_memory:
            self._train = moved(self._train, self.device)
        self._test = moved(self._test, self.device)
        return self

    def _batches(self, rank: int, world_size: int, seed: int, incarnation: int, sampling: Sampling) -> Batches:
        assert self.train_size is not None
        order = Order(
            self.train_size,
            self.batch_size,
            rank=rank,
            world_size=world_size,
            seed=seed,
            incarnation=incarnation,
            sampling=sampling,
        )
        if isinstance(self._train, TensorSource) and self._in_memory:
            return TensorBatches(order, self._crops, self._scaling, self._train)
        return ReadBatches(order, self._crops, self._scaling, self._train, self._loader_workers, self.device)

    def test_batches(self) -> Iterator[Batch]:
        if isinstance(self._test, TensorSource):
            return self._evaluation(self._test, 0, lambda cut: cut)
        return self._evaluation(self._test, self._loader_workers, self._cut)

    def train_eval_batches(self) -> Iterator[Batch]:
        cut = self._crops.centred if self._in_memory else self._cut
        return self._evaluation(self._train, self._loader_workers, cut)

    def _cut(self, images: Tensor) -> Tensor:
        return self._crops.centred(self._crops.pad(images))

    def _evaluation(self, source: Source, workers: int, cut: Callable[[Tensor], Tensor]) -> Iterator[Batch]:
        for raw, y in prefetch.once(source, self._eval_batch_size, workers):
            yield self._scaling(cut(raw.to(self.device))).contiguous(), y.to(self.device)


class TensorBatches(Batches):
    """Batches cut straight out of tensors in memory; an epoch's random numbers are drawn at its start."""

    def __init__(self, order: Order, crops: Crops, scaling: Scaling, source: TensorSource) -> None:
        super().__init__(order.steps, order.batch_size)
        self._order, self._crops, self._scaling = order, crops, scaling
        self._windows = Windows(crops, source.x)
        self._labels = source.y
        self._seek(0, 0)

    def _seek(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, position
        indices = self._order.permutation(epoch)
        moves = self._crops.draw(len(indices), self._order.augmentation(epoch))
        self._at = torch.from_numpy(indices).to(self._labels.device)
        on_cpu = self._labels.device.type == "cpu"
        self._indices: Any = indices if on_cpu else self._at
        self._moves: Any = moves if on_cpu else torch.from_numpy(moves).to(self._labels.device)

    def __next__(self) -> Batch:
        if self._position == self._order.steps:
            self._seek(self._epoch + 1, 0)
        here = slice(self._position * self.batch_size, (self._position + 1) * self.batch_size)
        x = self._windows.cut(self._indices[here], self._moves[:, here])
        self._position += 1
        return self._scaling(x), self._labels[self._at[here]]


class ReadBatches(Batches):
    """Batches read sample by sample, by this process or by loader processes, then augmented as a whole."""

    def __init__(
        self,
        order: Order,
        crops: Crops,
        scaling: Scaling,
        source: Source,
        workers: int,
        device: torch.device,
    ) -> None:
        super().__init__(order.steps, order.batch_size)
        self._order, self._crops, self._scaling = order, crops, scaling
        self._source, self._workers, self._device = source, workers, device
        self._raw: Iterator[Batch] | None = None
        self._closed = False
        self._seek(0, 0)

    def _seek(self, epoch: int, position: int) -> None:
        self._raw = None
        self._start(epoch, position)

    def _start(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, position
        self._moves = self._crops.draw(self._order.steps * self.batch_size, self._order.augmentation(epoch))

    def __next__(self) -> Batch:
        assert not self._closed, "a closed stream was asked for a batch"
        if self._position == self._order.steps:
            self._start(self._epoch + 1, 0)
        if self._raw is None:
            self._raw = prefetch.training(self._source, self._order, self._epoch, self._position, self._workers)
        raw, y = next(self._raw)
        here = slice(self._position * self.batch_size, (self._position + 1) * self.batch_size)
        self._position += 1
        if self._crops.moves or self._crops.flip:
            windows = Windows(self._crops, self._crops.pad(raw))
            raw = windows.cut(np.arange(len(raw)), self._moves[:, here])
        return self._scaling(raw.to(self._device, non_blocking=True)), y.to(self._device, non_blocking=True)

    def close(self) -> None:
        self._closed = True
        self._raw = None
