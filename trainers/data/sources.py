"""Where raw samples come from, tensors or a map-style Dataset, and how they become float32. A leaf module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

Batch = tuple[Tensor, Tensor]


def as_batch(pair: Any, origin: str, classes: int | None = None) -> Batch:
    """(x, y) as two tensors, y int64 [B].

    Raises:
        ValueError: `pair` is something else, or a class is not below `classes`; `origin` names who made it.
    """
    if not (isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)):
        parts = pair if isinstance(pair, Sequence) and not isinstance(pair, str) else [pair]
        got = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(f"{origin}: got batches of ({got}), expected (x, y): a tensor and its class numbers")
    x, y = pair
    if y.is_floating_point() or y.is_complex() or y.dim() != 1 or len(y) != len(x):
        raise ValueError(
            f"{origin}: got targets of type {str(y.dtype).removeprefix('torch.')} and shape {list(y.shape)} for"
            f" {len(x)} samples, expected one integer class a sample"
        )
    if classes is not None and len(y) and not 0 <= (low := int(y.min())) <= (high := int(y.max())) < classes:
        raise ValueError(f"{origin}: got class {low if low < 0 else high}, expected 0 ... {classes - 1}")
    return x, y.long()


@dataclass
class TensorSource:
    """Samples that lie in memory.

    Args:
        x: [N, C, H, W] or [N, F]; uint8 images stay uint8 until they are used.
        y: classes, int64 [N].
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @property
    def labels(self) -> Tensor:
        """Class of every sample, int64 [N]."""
        return self.y

    def subset(self, indices: npt.NDArray[np.int64]) -> TensorSource:
        """The samples at `indices`, copied."""
        at = torch.from_numpy(indices)
        return TensorSource(self.x[at], self.y[at])

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Batch:
        """Raw samples and classes."""
        at = torch.as_tensor(indices)
        return self.x[at], self.y[at]


@dataclass
class DatasetSource:
    """Samples of a map-style `Dataset`, read one by one when they are drawn.

    Args:
        labels: class of every sample, int64 [N], where they are known without reading.
        indices: which samples of the dataset these are, None for all.
        setup: `worker_init_fn` of loader processes.
        classes: how many there are, to refuse others where labels are not known beforehand.
    """

    dataset: Any
    labels: Tensor | None = None
    collate: Callable[[list[Any]], Any] = default_collate
    setup: Callable[[int], None] | None = None
    indices: npt.NDArray[np.int64] | None = None
    classes: int | None = None

    def __len__(self) -> int:
        return len(self.dataset) if self.indices is None else len(self.indices)

    def subset(self, indices: npt.NDArray[np.int64]) -> DatasetSource:
        """The samples at `indices`."""
        labels = None if self.labels is None else self.labels[torch.from_numpy(indices)]
        inner = indices if self.indices is None else self.indices[indices]
        return replace(self, labels=labels, indices=inner)

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Batch:
        """Raw samples and classes.

        Raises:
            ValueError: the samples are no (x, y) pairs of tensors of one shape.
        """
        at = np.asarray(indices, dtype=np.int64)
        wanted = (at if self.indices is None else self.indices[at]).tolist()
        many = getattr(self.dataset, "__getitems__", None)
        samples = many(wanted) if many is not None else [self.dataset[index] for index in wanted]
        origin = type(self.dataset).__name__
        try:
            batch = self.collate(samples)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{origin}: samples {wanted[:3]}... do not make a batch: {str(error)[:200]}") from error
        return as_batch(batch, origin, self.classes)


Source = TensorSource | DatasetSource


@dataclass
class Sets:
    """What the reader of one data set returns: two halves and what their numbers mean.

    Args:
        full_scale: the raw value that stands for 1 where samples are not normalised (255 for 8-bit images).
    """

    train: Source
    test: Source
    classes: int
    full_scale: float = 255.0


@dataclass
class Scaling:
    """x float32 = raw · gain + shift, both [C, 1, 1] or [F]; None: the raw values as they are."""

    gain: Tensor | None = None
    shift: Tensor | None = None

    def __call__(self, raw: Tensor) -> Tensor:
        """Scaled samples; `raw` itself where it is float32 already and needs no scaling."""
        x = raw.to(torch.float32)
        if self.gain is None:
            return x
        x = x.mul_(self.gain) if x is not raw else x * self.gain
        return x if self.shift is None else x.add_(self.shift)

    def to(self, device: torch.device) -> Scaling:
        """The same scaling on another device."""
        return Scaling(*(None if part is None else part.to(device) for part in (self.gain, self.shift)))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel (dimension 1) over all samples and positions, float64 [C].

    A channel without variance gets standard deviation 1, so that it is only centred.
    """
    channels = [x[:, channel].flatten() for channel in range(x.shape[1])]
    if x.dtype == torch.uint8:
        values = torch.arange(256, dtype=torch.float64)
        shares = torch.stack([torch.bincount(channel, minlength=256).double() / len(channel) for channel in channels])
        mean = shares @ values
        variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    else:
        pairs = [torch.var_mean(channel.double(), correction=0) for channel in channels]
        variance, mean = (torch.stack(part) for part in zip(*pairs, strict=True))
    std = variance.sqrt()
    return mean, torch.where(std > 1e-12 * mean.abs(), std, 1.0)


def eight_bit(x: Tensor, full_scale: float = 255.0) -> Scaling:
    """uint8 samples divided by their full scale, any others left as they are."""
    return Scaling(torch.tensor(1 / full_scale, device=x.device)) if x.dtype == torch.uint8 else Scaling()
