"""The small Inception model of Zhang et al. 2017 (Blot's thesis, sections 4.4.1 and 5.4, after Szegedy et al. 2015)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from trainers.models.base import MODELS, ModelConfig, Normalization, Shape, image_shape
from trainers.models.layers import assembled, convolution, head, pooling, unit

# (1×1 filters, 3×3 filters) of a mixing block, (3×3 filters of stride 2,) of a reducing one.
BLOCKS = (
    *((32, 32), (32, 48), (80,)),
    *((112, 48), (96, 64), (80, 80), (48, 96), (96,)),
    *((176, 160), (176, 160)),
)


class InceptionConfig(ModelConfig):
    """Options of `inception`: normalization is `batch` unless told otherwise, as in the source."""

    deep: ClassVar[bool] = True

    name: Literal["inception"] = "inception"
    normalization: Normalization = "batch"


class Parallel(nn.Module):
    """Branches on the same input, joined over channels: [N, C, H, W] -> [N, ΣCᵢ, H', W']."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


@MODELS.register(InceptionConfig)
def inception(config: InceptionConfig, shape: Shape, classes: int) -> nn.Module:
    """A 3×3 convolution, ten blocks of parallel branches, the mean over positions and the classifier.

    Raises:
        ValueError: vector data, or images with a side below 3.
    """
    inputs, _, _ = image_shape(shape, config.name, least_side=3)

    def branch(nominal: int, kernel: int, stride: int = 1) -> nn.Module:
        return unit(config, convolution(config, channels, config.units(nominal), kernel, stride))

    channels = inputs
    stages: list[nn.Module] = [branch(96, kernel=3)]
    channels = config.activated(config.units(96))
    for block in BLOCKS:
        if len(block) == 1:
            stages.append(Parallel(branch(block[0], kernel=3, stride=2), pooling(3)))
            channels += config.activated(config.units(block[0]))
        else:
            ones, threes = block
            stages.append(Parallel(branch(ones, kernel=1), branch(threes, kernel=3)))
            channels = config.activated(config.units(ones)) + config.activated(config.units(threes))
    return assembled([*stages, nn.AdaptiveAvgPool2d(1)], head(config, channels, [], classes))
