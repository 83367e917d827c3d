"""Layers that the models are made of: MaxMin, normalised and activated units, the head; may import configs and base.

Weights are drawn uniformly with variance gain² / fan_in and biases are 0. In shallow models without normalization the
gain is 1/√3, Torch 7's default and so where the thesis' runs started: the larger one of He et al. (2015) diverges there
at its learning rate of 0.1. Deep or normalized models have He's gain, which keeps the second moment of a unit normal
signal through the activation; for MaxMin it is relu's, because half of its doubled fan-in is 0.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainers.models.base import ModelConfig

SHALLOW_GAIN = math.sqrt(1 / 3)
GAINS = {
    "relu": math.sqrt(2),
    "maxmin": math.sqrt(2),
    "elu": 1.2453,  # 1 / sqrt(E elu(z)²), z ~ N(0, 1)
    "selu": 1.0,
}


class MaxMin(nn.Module):
    """MaxMin(x) = concat(ReLU(x), ReLU(−x)) over channels (Blot's thesis, section 3.3.2): it filters nothing.

    Args of the call:
        x: [N, C, ...]; the result is [N, 2C, ...], all positive maps before all negative ones, with gradient 0 at 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((torch.relu(x), torch.relu(-x)), dim=1)


def activation(config: ModelConfig) -> nn.Module:
    """The activation that `config` names; never in place, because regularizers read what enters it."""
    match config.activation:
        case "relu":
            return nn.ReLU()
        case "maxmin":
            return MaxMin()
        case "elu":
            return nn.ELU()
        case "leaky_relu":
            return nn.LeakyReLU(config.slope)
        case "selu":
            return nn.SELU()


def groups(channels: int) -> int:
    """Groups of a group normalization: the largest divisor of `channels` with at most 32 groups of at least 4."""
    return max((n for n in range(1, min(32, channels // 4) + 1) if channels % n == 0), default=1)


def normalization(config: ModelConfig, channels: int, spatial: bool) -> nn.Module | None:
    """The normalization that `config` names, of [N, C, H, W] if `spatial`, else [N, C]; layer is over C, H and W."""
    match config.normalization:
        case "none":
            return None
        case "batch":
            return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "group":
            return nn.GroupNorm(groups(channels), channels)


def hidden_gain(config: ModelConfig) -> float:
    """The gain of the weights of a hidden layer."""
    if not config.deep and config.normalization == "none":
        return SHALLOW_GAIN
    return math.sqrt(2 / (1 + config.slope**2)) if config.activation == "leaky_relu" else GAINS[config.activation]


def initialize(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    """Draws the weights of one layer with variance gain² / fan_in and clears its bias."""
    bound = gain * math.sqrt(3 / layer.weight[0].numel())
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def convolution(config: ModelConfig, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """An initialized convolution [N, inputs, H, W] -> [N, outputs, ⌈H / stride⌉, ⌈W / stride⌉], padded.

    With an even kernel it is not: `shifted` in front of it keeps the sides.
    """
    bias = config.normalization == "none"
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2 if kernel % 2 else 0, bias=bias)
    initialize(layer, hidden_gain(config))
    return layer


def shifted(kernel: int) -> nn.Module:
    """Zeros below and to the right, for a convolution whose even kernel cannot be padded evenly."""
    return nn.ZeroPad2d((kernel // 2 - 1, kernel // 2, kernel // 2 - 1, kernel // 2))


def linear(config: ModelConfig, inputs: int, outputs: int) -> nn.Linear:
    """An initialized hidden layer [N, inputs] -> [N, outputs]."""
    layer = nn.Linear(inputs, outputs, bias=config.normalization == "none")
    initialize(layer, hidden_gain(config))
    return layer


def unit(config: ModelConfig, layer: nn.Conv2d | nn.Linear) -> nn.Sequential:
    """A hidden layer with its normalization and activation behind it."""
    stages: OrderedDict[str, nn.Module] = OrderedDict(layer=layer)
    spatial = isinstance(layer, nn.Conv2d)
    norm = normalization(config, layer.weight.shape[0], spatial)
    if norm is not None:
        stages["normalization"] = norm
    stages["activation"] = activation(config)
    return nn.Sequential(stages)


def dropout(config: ModelConfig) -> nn.Module:
    """The dropout that keeps what the activation relies on: mean and variance for selu, the mean for the others."""
    return nn.AlphaDropout(config.dropout) if config.activation == "selu" else nn.Dropout(config.dropout)


def pooling(window: int) -> nn.MaxPool2d:
    """Max pooling of stride 2 that takes a side n to ⌈n / 2⌉, so that small images survive several of them."""
    if window % 2:
        return nn.MaxPool2d(window, stride=2, padding=window // 2)
    return nn.MaxPool2d(window, stride=2, ceil_mode=True)


def halved(side: int, times: int) -> int:
    """A side after `times` poolings or convolutions of stride 2."""
    return -(-side >> times)


def head(config: ModelConfig, features: int, hidden: Sequence[int], classes: int, raw: bool = False) -> nn.Sequential:
    """Fully connected layers of `hidden` units and the classifier: [N, features] -> logits [N, classes].

    Args:
        raw: the features are the data themselves, which dropout spares.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = features
    for number, nominal in enumerate([*hidden, classes], start=1):
        if config.dropout and number >= len(hidden) and not (raw and number == 1):
            stages[f"dropout{number}"] = dropout(config)
        if number <= len(hidden):
            stages[f"hidden{number}"] = unit(config, linear(config, inputs, config.units(nominal)))
            inputs = config.activated(config.units(nominal))
    stages["classifier"] = classifier = nn.Linear(inputs, classes)
    initialize(classifier, SHALLOW_GAIN)
    return nn.Sequential(stages)


def assembled(stages: Sequence[nn.Module], classifier: nn.Module) -> nn.Sequential:
    """The stages, flattened, as `features` and what follows as `head`: the names that layer patterns meet."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(features=nn.Sequential(*stages, nn.Flatten()), head=classifier)
    return nn.Sequential(parts)


def pooled_convolutions(
    config: ModelConfig,
    image: tuple[int, int, int],
    filters: Sequence[int],
    kernels: Sequence[int],
    window: int,
    hidden: Sequence[int],
    classes: int,
) -> nn.Sequential:
    """Convolutions with max pooling behind each, then `head`: [N, C, H, W] -> logits [N, classes].

    Args:
        image: (C, H, W) of the data.
        filters, kernels: of each convolution; the kernels are sides in pixels.
        window: side of the pooling window.
        hidden: units of the fully connected layers before the classifier.
    """
    channels, height, width = image
    stages: list[nn.Module] = []
    for nominal, kernel in zip(filters, kernels, strict=True):
        stages += [unit(config, convolution(config, channels, config.units(nominal), kernel)), pooling(window)]
        channels = config.activated(config.units(nominal))
    features = channels * halved(height, len(filters)) * halved(width, len(filters))
    return assembled(stages, head(config, features, hidden, classes))
