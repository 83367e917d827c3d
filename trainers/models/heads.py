"""Classifiers other than a plain linear layer; may import configs, base and regularizers.row_space."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from regularizers.row_space import FactoredLinear
from trainers.models.base import Builder, ModelConfig, Shape
from trainers.models.layers import SHALLOW_GAIN, initialize


class MaxPlusMin(nn.Module):
    """The largest plus the smallest score of each class over all positions (WELDON; Blot's thesis, 5.4.3).

    Args of the call:
        scores: [N, C, H, W]; the result is [N, C].
    """

    def forward(self, scores: Tensor) -> Tensor:
        flat = scores.flatten(2)
        return flat.amax(2) + flat.amin(2)


def with_classifier(builder: Builder) -> Builder:
    """The builder of a model whose classifier is the one that its config names."""

    def build(config: ModelConfig, shape: Shape, classes: int) -> nn.Module:
        model = builder(config, shape, classes)
        if config.classifier == "factored":
            head = model.get_submodule("head")
            linear = head.get_submodule("classifier")
            assert isinstance(linear, nn.Linear), linear
            head.add_module("classifier", FactoredLinear(linear))
        elif config.classifier == "weldon":
            return _weldon(config, model, shape, classes)
        return model

    return build


def _weldon(config: ModelConfig, model: nn.Module, shape: Shape, classes: int) -> nn.Module:
    """The model with a 1×1 convolution and max+min pooling in place of average pooling and fully connected layers.

    Raises:
        ValueError: the model has no feature maps.
    """
    features = model.get_submodule("features")
    kept = [stage for stage in features.children() if not isinstance(stage, (nn.Flatten, nn.AdaptiveAvgPool2d))]
    if not kept:
        raise ValueError(
            f"got model.classifier weldon for model {config.name!r}, expected a model with feature maps, such as"
            " wide_resnet; use linear"
        )
    maps = nn.Sequential(*kept)
    device = next(maps.parameters()).device
    modes = maps.training
    with torch.no_grad():
        channels = maps.eval()(torch.zeros(1, *shape, device=device)).shape[1]
    maps.train(modes)
    convolution = nn.Conv2d(channels, classes, 1)
    initialize(convolution, SHALLOW_GAIN)
    head = nn.Sequential(OrderedDict(classifier=convolution, pooling=MaxPlusMin()))
    return nn.Sequential(OrderedDict(features=maps, head=head))
