"""What all models share: their options, the registry and the checks of a data shape; may import configs only.

A row of `MODELS` is a function `(config, shape, classes) -> nn.Module` that returns logits; a new model is a new file
with its config, its function and one import in `trainers/models/__init__.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from configs.base import Config, Field, Registry

Shape = tuple[int, ...]
Builder = Callable[[Any, Shape, int], nn.Module]
Activation = Literal["relu", "maxmin", "elu", "leaky_relu", "selu"]
Normalization = Literal["none", "batch", "layer", "group"]
Classifier = Literal["linear", "factored", "weldon"]
Count = Annotated[int, Field(ge=1)]

MODELS: Registry[Builder] = Registry("model")


class ModelConfig(Config):
    """Options that every model of this package takes.

    Args:
        activation: after every hidden layer; `maxmin` doubles the channels it receives and, without normalization,
            wants about half the learning rate of relu.
        slope: of leaky_relu for negative inputs.
        normalization: between every hidden layer and its activation; a layer followed by one has no bias.
        dropout: probability of dropping an input of each of the last two linear layers (`wide_resnet`: between the
            two convolutions of a block); the data itself is never dropped. Under `selu` it is alpha dropout.
        width: factor on the channels and units of every hidden layer.
        classifier: `linear`; `factored`, whose weights are learned as U diag(s) Vᵀ (for `reve`); or `weldon`, a 1×1
            convolution with max+min pooling in place of average pooling and all fully connected layers.
        match_parameters: under `maxmin`, choose a smaller width with the parameter count of the relu model of `width`.
    """

    deep: ClassVar[bool] = False  # so many layers that a signal would fade with the small initial weights of the others

    name: str
    activation: Activation = "relu"
    slope: float = Field(0.01, ge=0, lt=1)
    normalization: Normalization = "none"
    dropout: float = Field(0.0, ge=0, lt=1)
    width: float = Field(1.0, gt=0)
    classifier: Classifier = "linear"
    match_parameters: bool = True

    def units(self, nominal: int) -> int:
        """Channels of a hidden layer that has `nominal` of them at width 1, at least one."""
        return max(1, math.floor(nominal * self.width + 0.5))

    def activated(self, channels: int) -> int:
        """Channels that leave the activation when `channels` enter it."""
        return 2 * channels if self.activation == "maxmin" else channels


def check_data(shape: Shape, classes: int) -> None:
    """Refuses a sample shape or a number of classes that no classifier can have.

    Raises:
        ValueError: an empty shape, a side below 1, fewer than two classes.
    """
    if not shape or any(side < 1 for side in shape):
        raise ValueError(f"got samples of shape {tuple(shape)}, expected positive sides: (features,) or (C, H, W)")
    if classes < 2:
        raise ValueError(f"got {classes} classes, expected at least 2; are the labels class numbers?")


def image_shape(shape: Shape, model: str, least_side: int) -> tuple[int, int, int]:
    """The shape of one image as (C, H, W), for the convolutional model called `model`.

    Raises:
        ValueError: the data are not images, or a side is below `least_side`, the model's first kernel.
    """
    if len(shape) != 3:
        raise ValueError(
            f"model {model!r} got samples of shape {tuple(shape)}, expected images (C, H, W); use model 'mlp' for them"
        )
    channels, height, width = shape
    if min(height, width) < least_side:
        raise ValueError(
            f"model {model!r} got images of shape {tuple(shape)}, expected sides of at least {least_side};"
            " enlarge the images or use model 'mlp'"
        )
    return channels, height, width
