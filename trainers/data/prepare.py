"""What happens once to both halves of a data set: limiting, checking, scaling. Imports sampling and sources."""

from __future__ import annotations

from typing import Literal

import torch

from trainers.data.sampling import stratified_order
from trainers.data.sources import DatasetSource, Scaling, Source, TensorSource, eight_bit, moments

# Enough for a mean and a standard deviation to two digits where samples have to be read one by one.
_SAMPLES_FOR_MOMENTS = 2000


def limited(source: Source, count: int | None) -> Source:
    """The first `count` samples of the fixed stratified order, in their original order."""
    if count is None:
        return source
    if count > len(source):
        raise ValueError(
            f"got data.train_samples {count}, expected at most {len(source)}, the size of the training set"
        )
    assert source.labels is not None
    chosen = stratified_order(source.labels.numpy())[:count]
    chosen.sort()
    return source.subset(chosen)


def check_half(source: Source, classes: int, name: str) -> None:
    """Refuses a half that is empty or has a class out of range.

    Raises:
        ValueError: it does.
    """
    if not len(source):
        raise ValueError(f"the {name} set is empty")
    if source.labels is not None:
        low, high = int(source.labels.min()), int(source.labels.max())
        if low < 0 or high >= classes:
            raise ValueError(f"the {name} set has class {low if low < 0 else high}, expected 0 ... {classes - 1}")


def scaled(
    train: Source, test: Source, normalize: bool | Literal["symmetric"], full_scale: float
) -> tuple[Scaling, Source, Source]:
    """The scaling still to be applied to each batch, and both halves.

    Tables of floating samples in memory are normalised here and now, in float64; 8-bit images stay as they are.

    Raises:
        ValueError: `symmetric` is asked for what is no 8-bit image.
    """
    if isinstance(train, TensorSource) and isinstance(test, TensorSource) and train.x.is_floating_point():
        _check_symmetric(normalize, train.x)
        assert train.x.dim() == 2, train.x.shape
        mean, std = moments(train.x) if normalize else (torch.tensor(0.0), torch.tensor(1.0))
        train, test = (TensorSource(((half.x.double() - mean) / std).float(), half.y) for half in (train, test))
        return Scaling(), train, test
    if isinstance(train, DatasetSource):
        x = train.read(evenly(len(train), _SAMPLES_FOR_MOMENTS if normalize else 1))[0]
    else:
        x = train.x
    if normalize == "symmetric":
        _check_symmetric(normalize, x)
        return Scaling(torch.tensor(2 / full_scale), torch.tensor(-1.0)), train, test
    if not normalize or x.dtype != torch.uint8:
        return eight_bit(x, full_scale), train, test
    mean, std = moments(x)
    shape = (-1, *[1] * (x.dim() - 2))
    return Scaling((1 / std).float().view(shape), (-mean / std).float().view(shape)), train, test


def evenly(size: int, most: int) -> list[int]:
    """At most `most` indices spread over 0 ... size - 1."""
    count = min(size, most)
    return [index * size // count for index in range(count)]


def moved(source: Source, device: torch.device) -> Source:
    """A source in memory on another device; a Dataset stays where it is."""
    return TensorSource(source.x.to(device), source.y.to(device)) if isinstance(source, TensorSource) else source


def _check_symmetric(normalize: bool | str, x: torch.Tensor) -> None:
    if normalize == "symmetric" and x.dtype != torch.uint8:
        raise ValueError(f"data.normalize: got symmetric for samples of {x.dtype}, expected 8-bit images; use true")
