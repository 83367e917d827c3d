"""The eleven-layer network of Clevert et al. (2016, section 4.2), in which activations and normalizations are compared.

The Variance Constancy Loss paper's experiments on CIFAR use it (tables 1 and 2).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from trainers.models.base import MODELS, Activation, ModelConfig, Shape, image_shape
from trainers.models.layers import assembled, convolution, halved, head, pooling, shifted, unit

STACKS = (
    ((192, 5),),
    ((192, 1), (240, 3)),
    ((240, 1), (260, 2)),
    ((260, 1), (280, 2)),
    ((280, 1), (300, 2)),
    ((300, 1),),
)
"""Channels and side of the kernel of each convolution."""


class Elu11Config(ModelConfig):
    """Options of `elu11`: the activation is `elu` unless told otherwise, as in the source."""

    deep: ClassVar[bool] = True

    name: Literal["elu11"] = "elu11"
    activation: Activation = "elu"


@MODELS.register(Elu11Config)
def elu11(config: Elu11Config, shape: Shape, classes: int) -> nn.Module:
    """Ten convolutions in six stacks, max pooling 2×2 behind each but the last, then the classifier.

    Raises:
        ValueError: vector data, or images with a side below 5.
    """
    channels, height, width = image_shape(shape, config.name, least_side=5)
    stages: list[nn.Module] = []
    for stack in STACKS:
        for nominal, kernel in stack:
            if kernel % 2 == 0:
                stages.append(shifted(kernel))
            stages.append(unit(config, convolution(config, channels, config.units(nominal), kernel)))
            channels = config.activated(config.units(nominal))
        if stack is not STACKS[-1]:
            stages.append(pooling(2))
    features = channels * halved(height, len(STACKS) - 1) * halved(width, len(STACKS) - 1)
    return assembled(stages, head(config, features, [], classes))
