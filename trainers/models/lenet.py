"""The LeNet-like CNN of the MaxMin experiments, not LeNet-5 (Blot's thesis, section 3.4.1)."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator
from torch import nn

from configs.base import Field
from trainers.models.base import MODELS, Count, ModelConfig, Shape, image_shape
from trainers.models.layers import pooled_convolutions


class LeNetConfig(ModelConfig):
    """Options of `lenet`: section 3.4.1 of Blot's thesis by default.

    `kernels: [5, 3, 3], pool: 2` is the MNIST-M CNN of its section 4.4.3.1.

    Args:
        filters: channels of each convolution.
        kernels: side of each convolution's kernel, in pixels; odd.
        pool: side of the max pooling windows (stride 2).
    """

    name: Literal["lenet"] = "lenet"
    filters: list[Count] = Field([64, 64, 64], min_length=1)
    kernels: list[Count] = Field([5, 5, 5], validate_default=True)
    pool: Literal[2, 3] = 3

    @field_validator("kernels")
    @classmethod
    def _one_odd_kernel_per_convolution(cls, kernels: list[int], info: ValidationInfo) -> list[int]:
        filters = info.data.get("filters", kernels)
        if len(kernels) != len(filters):
            raise ValueError(f"got {len(kernels)} kernels for {len(filters)} filters, expected one each")
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"got kernels {kernels}, expected odd sides such as 3 or 5")
        return kernels


@MODELS.register(LeNetConfig)
def lenet(config: LeNetConfig, shape: Shape, classes: int) -> nn.Module:
    """Three convolutions of 64 filters, each with max pooling, then the classifier.

    The local contrast normalization of the thesis is left out; `normalization` offers its successors.

    Raises:
        ValueError: vector data, or images with a side below the largest kernel.
    """
    image = image_shape(shape, config.name, least_side=max(config.kernels))
    return pooled_convolutions(config, image, config.filters, config.kernels, config.pool, [], classes)
