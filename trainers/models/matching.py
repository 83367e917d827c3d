"""The width at which a MaxMin model has as many parameters as its relu twin; may import configs and base."""

from __future__ import annotations

import torch
from torch import nn

from trainers.models.base import Builder, ModelConfig, Shape

BISECTIONS = 20


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def matched(builder: Builder, config: ModelConfig, shape: Shape, classes: int) -> ModelConfig:
    """`config` with the width whose parameter count is closest to that of the same model with relu (thesis 3.3.4).

    Channels are whole numbers, so the count moves in steps: in the models here, at the widths they were published
    with, the two counts differ by less than 2 %; a model of a few channels can miss by more.
    """

    def count(candidate: ModelConfig) -> int:
        with torch.device("meta"):
            return parameter_count(builder(candidate, shape, classes))

    def at(width: float) -> ModelConfig:
        return config.model_copy(update={"width": width})

    target = count(config.model_copy(update={"activation": "relu"}))
    low, high = config.width / 4, config.width
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if count(at(middle)) < target:
            low = middle
        else:
            high = middle
    return min(at(low), at(high), key=lambda candidate: abs(count(candidate) - target))
