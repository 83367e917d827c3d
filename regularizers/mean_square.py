"""The plain penalty mean(y^2) on pre-activations: the control to run beside every regularizer.

Imports regularizers.base and tap, and torch.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from regularizers.base import REGULARIZERS, Regularizer, RegularizerConfig
from regularizers.tap import tap


class MeanSquareConfig(RegularizerConfig):
    """Options of `mean_square`."""

    name: Literal["mean_square"] = "mean_square"


def mean_square_loss(y: Tensor) -> Tensor:
    """mean(y^2).

    Args:
        y: pre-activations of a layer, of any shape.
    """
    wide = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
    return wide.square().mean()


@REGULARIZERS.register(MeanSquareConfig)
class MeanSquare(Regularizer):
    """Shrinks pre-activations, without two modes or moving averages."""

    Options = MeanSquareConfig

    def observe(self, layer: str, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        """The mean square with its gradient, and of how many."""
        count = output.numel()
        scale = self.scale(layer, output, count)
        y = output.detach()
        return tap(output, mean_square_loss(y), y * (2 * scale / count), scale=scale), count

    def losses(self, seen: dict[str, list[Any]], targets: Tensor) -> dict[str, Tensor]:
        """The mean square of each layer, over all its calls."""
        counts = {name: sum(count for _, count in calls) for name, calls in seen.items()}
        return {
            name: torch.stack([mean * (count / counts[name]) for mean, count in calls]).sum()
            for name, calls in seen.items()
        }
