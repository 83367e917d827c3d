"""EDM: the covariance between groups of a layer's units, as a score and as a regularizer (Gu et al. 2018).

Imports regularizers.base.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from regularizers.base import REGULARIZERS, Regularizer, RegularizerConfig
from regularizers.layers import Layers, preactivation_layers, units_second, width


class EdmConfig(RegularizerConfig):
    """Options of `edm`.

    Attributes:
        groups: of consecutive units or channels that a layer is divided into.
    """

    name: Literal["edm"] = "edm"
    groups: int = Field(default=8, ge=2)


def group_means(activations: Tensor, groups: int) -> Tensor:
    """The mean of each group of consecutive units, [samples, groups].

    Args:
        activations: [K, D], or [K, C, ...] whose positions are samples.

    Raises:
        ValueError: there are fewer units than groups.
    """
    if activations.shape[1] < groups:
        raise ValueError(f"got {groups} groups for {activations.shape[1]} units, expected at most as many")
    means = [part.mean(1) for part in activations.tensor_split(groups, dim=1)]
    return torch.stack(means, -1).flatten(0, -2)


def edm_loss(means: Tensor) -> Tensor:
    """½ Σ_{i≠j} C_ij², C the covariance (divided by K − 1) of the groups' means.

    Args:
        means: [K, groups], K >= 2.
    """
    centred = means - means.mean(0)
    squares = (centred.mT @ centred / (len(means) - 1)).square()
    return 0.5 * (squares.sum() - squares.diagonal().sum())


@REGULARIZERS.register(EdmConfig)
class Edm(Regularizer):
    """Decorrelates the groups of a layer's units; positions of a convolution are samples."""

    Options = EdmConfig
    options: EdmConfig

    def find(self, model: nn.Module) -> Layers:
        """The layers that are named, else those before the classifier that have as many units as groups.

        Raises:
            ValueError: there is none.
        """
        if self.options.layers is not None:
            return super().find(model)
        layers = preactivation_layers(model)
        wide = {name: layer for name, layer in layers.items() if (width(layer) or 0) >= self.options.groups}
        if not wide:
            sizes = ", ".join(f"{name} ({width(layer)} units)" for name, layer in layers.items())
            raise ValueError(f"got groups {self.options.groups}, more than any layer has units: {sizes}")
        return wide

    def observe(self, layer: str, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The groups' means, [samples, groups]."""
        units = units_second(self.layers[layer], output)
        return group_means(units if units.dtype == torch.float64 else units.float(), self.options.groups)

    def losses(self, seen: dict[str, list[Any]], targets: Tensor) -> dict[str, Tensor]:
        """The loss of each layer, over the samples of all its calls.

        Raises:
            ValueError: there is a single sample.
        """
        means = {name: torch.cat(calls) for name, calls in seen.items()}
        if name := next((name for name, samples in means.items() if len(samples) < 2), None):
            raise ValueError(f"got a batch of 1 sample of layer {name!r}, expected at least 2: a covariance needs them")
        return {name: edm_loss(samples) for name, samples in means.items()}
