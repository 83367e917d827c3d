"""Wide residual networks (Zagoruyko and Komodakis 2016); Blot's thesis has depth 28 and k = 10."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator
from torch import Tensor, nn

from trainers.models.base import MODELS, Count, ModelConfig, Normalization, Shape, image_shape
from trainers.models.layers import activation, assembled, convolution, dropout, head, normalization

NOMINAL = (16, 32, 64)


class WideResNetConfig(ModelConfig):
    """Options of `wide_resnet`.

    Args:
        depth: convolutions along the longest path, 6n + 4 for n blocks in each of the three groups.
        k: widening factor on the 16, 32 and 64 channels of the groups.
    """

    deep: ClassVar[bool] = True

    name: Literal["wide_resnet"] = "wide_resnet"
    normalization: Normalization = "batch"
    depth: Count = 16
    k: Count = 4

    @field_validator("depth")
    @classmethod
    def _three_groups_of_blocks(cls, depth: int) -> int:
        if depth < 10 or (depth - 4) % 6:
            below = max(10, depth - (depth - 4) % 6)
            raise ValueError(f"got {depth}, expected 6n + 4 with n >= 1, such as {below} or {below + 6}")
        return depth


def activated(config: ModelConfig, channels: int) -> nn.Sequential:
    """Normalization and activation before a convolution: [N, channels, ...] -> [N, config.activated(channels), ...]."""
    stages = [normalization(config, channels, spatial=True), activation(config)]
    return nn.Sequential(*[stage for stage in stages if stage is not None])


class Block(nn.Module):
    """x + conv(act(conv(act(x)))) in pre-activation order: [N, inputs, H, W] -> [N, outputs, ⌈H/stride⌉, ⌈W/stride⌉].

    Without normalization the last convolution starts at 0: otherwise every block doubles the signal's variance.
    """

    def __init__(self, config: ModelConfig, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = activated(config, inputs)
        first = convolution(config, config.activated(inputs), outputs, 3, stride)
        last = convolution(config, config.activated(outputs), outputs, 3)
        if config.normalization == "none":
            nn.init.zeros_(last.weight)
        dropped = [dropout(config)] if config.dropout else []
        self.residual = nn.Sequential(first, activated(config, outputs), *dropped, last)
        self.shortcut: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.shortcut = convolution(config, config.activated(inputs), outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        ready = self.before(x)
        residual: Tensor = self.residual(ready)
        return residual + (x if self.shortcut is None else self.shortcut(ready))


@MODELS.register(WideResNetConfig)
def wide_resnet(config: WideResNetConfig, shape: Shape, classes: int) -> nn.Module:
    """A 3×3 convolution, three groups of residual blocks, the mean over positions and the classifier.

    Raises:
        ValueError: vector data, or images with a side below 3.
    """
    inputs, _, _ = image_shape(shape, config.name, least_side=3)
    channels = config.units(NOMINAL[0])
    stages: list[nn.Module] = [convolution(config, inputs, channels, kernel=3)]
    for group, nominal in enumerate(NOMINAL):
        for block in range((config.depth - 4) // 6):
            stride = 2 if group > 0 and block == 0 else 1
            outputs = config.units(nominal * config.k)
            stages.append(Block(config, channels, outputs, stride))
            channels = outputs
    stages += [activated(config, channels), nn.AdaptiveAvgPool2d(1)]
    classifier = head(config.model_copy(update={"dropout": 0.0}), config.activated(channels), [], classes)
    return assembled(stages, classifier)
