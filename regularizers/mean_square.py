"""The plain penalty mean(y^2) on pre-activations: the control to run beside every regularizer.

Imports regularizers.base and torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from regularizers.base import REGULARIZERS, Regularizer, RegularizerConfig


class MeanSquareConfig(RegularizerConfig):
    """Options of `mean_square`."""

    name: Literal["mean_square"] = "mean_square"


def mean_square_loss(activations: Iterable[Tensor]) -> Tensor:
    """sum over layers of mean(y^2).

    Args:
        activations: pre-activations, each of any shape.
    """
    return torch.stack([layer.square().mean() for layer in activations]).sum()


@REGULARIZERS.register(MeanSquareConfig)
class MeanSquare(Regularizer):
    """Shrinks pre-activations, without two modes or moving averages."""

    Options = MeanSquareConfig

    def observe(self, layer: str, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        """Sum of squares and count."""
        wide = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
        return wide.square().sum(), wide.numel()

    def losses(self, seen: dict[str, list[Any]], targets: Tensor) -> dict[str, Tensor]:
        """The mean square of each layer."""
        return {
            name: torch.stack([total for total, _ in calls]).sum() / sum(count for _, count in calls)
            for name, calls in seen.items()
        }
