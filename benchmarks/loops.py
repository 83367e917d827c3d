"""Models, data and training loops that the benchmarks time. Imports gossip, trainers.models and torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.fleet import Signs
from trainers import models
from trainers.models import CnnConfig, MlpConfig, ModelConfig, Shape

BATCH_SIZE = 16
CLASSES = 10
_LEARNING_RATE = 1e-3
_BATCHES = 8


class Network(NamedTuple):
    """A model by its options and the shape of its samples."""

    config: ModelConfig
    shape: Shape
    described: str

    def build(self) -> nn.Module:
        """The model with the same initial weights in every process."""
        torch.manual_seed(0)
        return models.build(self.config, self.shape, CLASSES)


NETWORKS = {
    "200k": Network(CnnConfig(), (3, 28, 28), "cnn at 3x28x28"),
    "7m": Network(MlpConfig(hidden=[1520, 1520]), (3, 32, 32), "mlp 3072-1520-1520-10"),
    "25m": Network(MlpConfig(hidden=[3700, 3700]), (3, 32, 32), "mlp 3072-3700-3700-10"),
}


class Loop:
    """Plain SGD on random data that never changes, as somebody would write it by hand.

    Args:
        model: whose parameters are trained.
        shape: of one sample.
        seed: of the data.
        module: what to call: the model itself, or the same model wrapped.
        exchange: called after every step of the optimizer.
        batch: samples of a step.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: Shape,
        seed: int,
        *,
        module: nn.Module | None = None,
        exchange: Callable[[], object] | None = None,
        batch: int = BATCH_SIZE,
    ) -> None:
        self._module = model if module is None else module
        self._exchange = exchange
        self._optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE, fused=True)
        generator = torch.Generator().manual_seed(seed)
        self._x = torch.randn(_BATCHES, batch, *shape, generator=generator)
        self._y = torch.randint(CLASSES, (_BATCHES, batch), generator=generator)
        self._turn = 0

    def step(self) -> float:
        """One step of training; returns the seconds that the exchange took of it."""
        self._turn = (self._turn + 1) % _BATCHES
        self._optimizer.zero_grad(set_to_none=True)
        loss: Tensor = functional.cross_entropy(self._module(self._x[self._turn]), self._y[self._turn])
        torch.autograd.backward(loss)
        self._optimizer.step()
        if self._exchange is None:
            return 0.0
        began = time.perf_counter()
        self._exchange()
        return time.perf_counter() - began


class Timing(NamedTuple):
    """One worker's part of one round, in seconds a step: means, so that rare and expensive exchanges count."""

    step: float
    exchange: float


def timed(step: Callable[[], float], warm_up: int, steps: int, signs: Signs, rank: int, collective: bool) -> Timing:
    """Time each of `steps` calls of `step` on its own, after some that are not counted.

    Workers without a barrier go on, no longer timed, until the last of them has been timed: a machine whose other
    cores fall idle is faster.

    Args:
        signs: one word a worker.
        collective: whether the steps meet in collective operations, so that all workers must make equally many.
    """
    for _ in range(warm_up):
        step()
    spent = exchanging = 0.0
    for _ in range(steps):
        began = time.perf_counter()
        exchanging += step()
        spent += time.perf_counter() - began
    turn = signs.count(rank)
    while not collective and not signs.reached(turn):
        step()
    return Timing(spent / steps, exchanging / steps)
