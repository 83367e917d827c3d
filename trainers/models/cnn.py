"""The 200K CNN of the exchange experiments (Blot's thesis, sections 2.5 and 3.4.2, after Wan et al. 2013)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from configs.base import Field
from trainers.models.base import MODELS, Count, ModelConfig, Shape, image_shape
from trainers.models.layers import pooled_convolutions


class CnnConfig(ModelConfig):
    """Options of `cnn`.

    Args:
        filters: channels of each 5×5 convolution.
        hidden: units of each fully connected layer before the classifier.
    """

    name: Literal["cnn"] = "cnn"
    filters: list[Count] = Field([32, 32, 64], min_length=1)
    hidden: list[Count] = Field([104, 104])


@MODELS.register(CnnConfig)
def cnn(config: CnnConfig, shape: Shape, classes: int) -> nn.Module:
    """5×5 convolutions, each with max pooling 3×3 of stride 2, then fully connected layers: 197,898 parameters.

    The thesis gives the filters and a total of 200K (28×28×3, ten classes); the units of the two fully connected
    layers are chosen to meet it.

    Raises:
        ValueError: vector data, or images with a side below 5.
    """
    image = image_shape(shape, config.name, least_side=5)
    kernels = [5] * len(config.filters)
    return pooled_convolutions(config, image, config.filters, kernels, 3, config.hidden, classes)
