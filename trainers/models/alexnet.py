"""The AlexNet-like model of the regularization experiments (Blot's thesis, sections 4.4.1 and 5.4)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from configs.base import Field
from trainers.models.base import MODELS, Count, ModelConfig, Shape, image_shape
from trainers.models.layers import pooled_convolutions


class AlexNetConfig(ModelConfig):
    """Options of `alexnet`: the defaults are section 4.4.1 of Blot's thesis; section 5.4 has `kernel: 5` and `pool: 2`.

    Args:
        filters: channels of each convolution.
        kernel: side of the convolutions' kernels.
        pool: side of the max pooling windows (stride 2).
        hidden: units of each fully connected layer before the classifier.
    """

    name: Literal["alexnet"] = "alexnet"
    filters: list[Count] = Field([64, 64, 64], min_length=1)
    kernel: Literal[3, 5] = 3
    pool: Literal[2, 3] = 3
    hidden: list[Count] = Field([1000])


@MODELS.register(AlexNetConfig)
def alexnet(config: AlexNetConfig, shape: Shape, classes: int) -> nn.Module:
    """Three convolutions of 64 filters, each with max pooling, then 1,000 units and the classifier.

    Raises:
        ValueError: vector data, or images with a side below 5.
    """
    image = image_shape(shape, config.name, least_side=5)
    kernels = [config.kernel] * len(config.filters)
    return pooled_convolutions(config, image, config.filters, kernels, config.pool, config.hidden, classes)
