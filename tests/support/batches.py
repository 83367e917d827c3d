"""Batches of a data set, and whether they are the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

Batch = tuple[torch.Tensor, torch.Tensor]


def whole(batches: Iterable[Batch]) -> Batch:
    """All of them as one."""
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def take(stream: Iterator[Batch], count: int) -> list[Batch]:
    """The next so many of a stream."""
    return [next(stream) for _ in range(count)]


def same(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    """Whether they are as many, and equal to the last bit."""
    return all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
