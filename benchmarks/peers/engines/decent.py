"""decent-dp: the neighbours' weights of the step before are averaged in at every step. Imports decent_dp."""

from __future__ import annotations

import os

import torch
from decent_dp.ddp import DecentralizedDataParallel
from loguru import logger
from torch import Tensor, nn

from benchmarks.peers.engines.base import Engine, Place


def build(model: nn.Module, place: Place) -> Engine:
    """It has no period: it hides an exchange a step behind the backward pass, and updates weights there itself."""
    logger.remove()
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(place.workers))
    place.process_group()
    steps = 0

    def optimizer(named: list[tuple[str, Tensor]]) -> torch.optim.Optimizer:
        return place.optimizer([parameter for _, parameter in named])

    def count() -> None:
        nonlocal steps
        steps += 1

    module = DecentralizedDataParallel(model, optim_fn=optimizer, topology="complete")
    return Engine(module, None, count, lambda: steps, together=True)
