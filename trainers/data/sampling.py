"""Which samples a worker draws, and in which order: random streams, epochs, stratified splits. Imports numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Sampling = Literal["independent", "sharded"]
Indices = npt.NDArray[np.int64]

# What a stream is for; part of its key, so that two uses of one seed never share numbers.
_SHARED_ORDER, _OWN_ORDER, _AUGMENTATION, _LOADING = range(4)


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random generator of one purpose: equal keys give equal streams, different keys unrelated ones."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


class Order:
    """The order in which one worker draws samples, epoch after epoch, as a function of the epoch's number.

    Nothing is remembered between epochs, so a position is two integers and a resume is exact. `independent`: a fresh
    permutation of the whole set each epoch, the worker's own (thesis 2.5). `sharded`: one permutation an epoch for all
    workers, of which worker r takes elements r, r + M, ...; every worker gets the same number of samples. Worker M + r,
    who joined the job later, takes the same elements as worker r.

    Args:
        size: samples in the training set.
        batch_size: samples a step; what is left of an epoch after the last whole batch is not drawn in it.
        incarnation: which life of the worker this is; a restarted worker draws a new stream.

    Raises:
        ValueError: an epoch of this worker is smaller than one batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        rank: int,
        world_size: int,
        seed: int,
        incarnation: int = 0,
        sampling: Sampling = "independent",
    ) -> None:
        assert rank >= 0 and world_size > 0 and seed >= 0 and incarnation >= 0, (rank, world_size, seed, incarnation)
        if sampling not in ("independent", "sharded"):
            raise ValueError(f"got sampling {sampling!r}, expected 'independent' or 'sharded'")
        share = size // world_size if sampling == "sharded" else size
        if share < batch_size:
            of_all = f" ({size} over {world_size} workers)" if sampling == "sharded" else ""
            raise ValueError(
                f"got {share} training samples a worker{of_all}, fewer than one batch of {batch_size};"
                f" set data.batch_size to {share} or less"
                if share
                else f"got {size} training samples for {world_size} workers, expected at least one sample a worker"
            )
        self.size, self.batch_size, self.sampling = size, batch_size, sampling
        self.steps = share // batch_size
        self._rank, self._world_size = rank % world_size, world_size
        self._seed, self._own = seed, (rank, incarnation)

    def permutation(self, epoch: int) -> Indices:
        """The samples of one epoch in the order drawn, [steps · batch_size]."""
        if self.sampling == "sharded":
            order = stream(self._seed, _SHARED_ORDER, epoch).permutation(self.size)[self._rank :: self._world_size]
        else:
            order = stream(self._seed, _OWN_ORDER, *self._own, epoch).permutation(self.size)
        return order[: self.steps * self.batch_size].astype(np.int64, copy=False)

    def augmentation(self, epoch: int) -> np.random.Generator:
        """The worker's own generator for one epoch's augmentation."""
        return stream(self._seed, _AUGMENTATION, *self._own, epoch)

    def loading(self, epoch: int, position: int) -> np.random.Generator:
        """The generator that seeds a loader process before it reads one batch."""
        return stream(self._seed, _LOADING, *self._own, epoch, position)

    def batches(self, epoch: int, position: int) -> Iterator[tuple[int, int, Indices]]:
        """Endless (epoch, position, indices [batch_size]) from a position onwards."""
        while True:
            order = self.permutation(epoch).reshape(self.steps, self.batch_size)
            for at in range(position, self.steps):
                yield epoch, at, order[at]
            epoch, position = epoch + 1, 0


def stratified_order(labels: npt.ArrayLike, seed: int = 0) -> Indices:
    """All samples in a fixed random order that takes the classes in turn.

    Its first N elements hold N / classes samples of each class (as far as a class has them), and a smaller N is a
    subset of a larger one (thesis 4.4.3.1). The generator is numpy's frozen one: the order never changes.

    Args:
        labels: class of each sample, [N].
    """
    labels = np.asarray(labels)
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, counts = np.unique(labels, return_counts=True)
    turn = np.concatenate([np.arange(count) for count in counts]) if len(labels) else np.empty(0, np.int64)
    return by_class[np.argsort(turn, kind="stable")].astype(np.int64, copy=False)


def stratified_split(labels: npt.ArrayLike, test_size: int, seed: int = 0) -> tuple[Indices, Indices]:
    """Fixed (train, test) indices, both ascending, each class in the proportion it has in the whole.

    Args:
        labels: class of each sample, [N].
        test_size: samples to hold out, exactly.
    """
    labels = np.asarray(labels)
    assert 0 <= test_size <= len(labels), (test_size, len(labels))
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    exact = counts * test_size / max(len(labels), 1)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: test_size - quota.sum()]] += 1
    held_out: npt.NDArray[Any] = np.zeros(len(labels), dtype=bool)
    taken = np.zeros(len(counts), dtype=np.int64)
    for index in np.random.RandomState(seed).permutation(len(labels)):
        if taken[classes[index]] < quota[classes[index]]:
            taken[classes[index]] += 1
            held_out[index] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
