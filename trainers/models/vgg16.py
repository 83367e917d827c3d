"""VGG-16 (Simonyan and Zisserman 2015, configuration D) for images of any size."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from configs.base import Field
from trainers.models.base import MODELS, Count, ModelConfig, Normalization, Shape, image_shape
from trainers.models.layers import assembled, convolution, halved, head, pooling, unit

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Vgg16Config(ModelConfig):
    """Options of `vgg16`.

    Thirteen convolutions in a row hardly start to learn without normalization, so it is `batch` unless told otherwise.

    Args:
        hidden: units of each fully connected layer before the classifier; [4096, 4096] is the original, meant for
            images of 224×224.
    """

    deep: ClassVar[bool] = True

    name: Literal["vgg16"] = "vgg16"
    normalization: Normalization = "batch"
    hidden: list[Count] = Field([512, 512])


@MODELS.register(Vgg16Config)
def vgg16(config: Vgg16Config, shape: Shape, classes: int) -> nn.Module:
    """Thirteen 3×3 convolutions in five stages, max pooling 2×2 behind each, then fully connected layers.

    Raises:
        ValueError: vector data, or images with a side below 3.
    """
    channels, height, width = image_shape(shape, config.name, least_side=3)
    stages: list[nn.Module] = []
    for nominals in STAGES:
        for nominal in nominals:
            stages.append(unit(config, convolution(config, channels, config.units(nominal), kernel=3)))
            channels = config.activated(config.units(nominal))
        stages.append(pooling(2))
    features = channels * halved(height, len(STAGES)) * halved(width, len(STAGES))
    return assembled(stages, head(config, features, config.hidden, classes))
