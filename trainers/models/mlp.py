"""The multi-layer perceptron, three layers by default (Zhang et al. 2017; Blot's thesis, section 4.4.1)."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from configs.base import Field
from trainers.models.base import MODELS, Count, ModelConfig, Shape
from trainers.models.layers import assembled, head


class MlpConfig(ModelConfig):
    """Options of `mlp`.

    Args:
        hidden: units of each hidden layer, before the factor `width`.
    """

    name: Literal["mlp"] = "mlp"
    hidden: list[Count] = Field([512, 512])


@MODELS.register(MlpConfig)
def mlp(config: MlpConfig, shape: Shape, classes: int) -> nn.Module:
    """Fully connected layers on the flattened sample: [N, *shape] -> logits [N, classes]."""
    return assembled([], head(config, math.prod(shape), config.hidden, classes, raw=True))
