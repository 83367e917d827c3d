"""The variance constancy loss: variances of small samples of an activation should agree (Littwin and Wolf 2018).

Imports regularizers.base, layers and tap, and torch. Only 2n samples of a batch are looked at.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from regularizers.base import REGULARIZERS, Regularizer, RegularizerConfig
from regularizers.layers import home, key, probe
from regularizers.tap import tap

FLOOR = 1e-3
"""Smallest beta, which keeps the ratio of the variances of a unit at rest finite."""


class VarianceConstancyConfig(RegularizerConfig):
    """Options of `vcl`.

    Attributes:
        weight: gamma, the factor of the regularizer in the loss.
        n: samples of each of the two subsets whose variances are compared; a batch needs 2n.
    """

    name: Literal["vcl"] = "vcl"
    weight: float = Field(default=0.01, ge=0)
    n: int = Field(default=2, ge=2)


def vcl_loss(x: Tensor, beta: Tensor, n: int) -> Tensor:
    """mean over units of (1 - s_1^2 / (s_2^2 + beta))^2, s_j^2 the unbiased variance of the j-th n samples (eq. 17).

    Both variances carry gradient, and so does beta.

    Args:
        x: pre-activations [N, ...]; each element of a sample is a unit, each position of a convolution one of its own.
        beta: [...], positive.
        n: samples of a subset; 2n <= N.

    Raises:
        ValueError: the batch is too small, or n is.
    """
    if n < 2 or 2 * n > len(x):
        raise ValueError(f"got a batch of {len(x)} and n = {n}, expected n of at least 2 and a batch of at least 2n")
    first, second = _variance(x[:n]), _variance(x[n : 2 * n])
    return (1 - first / (second + beta)).square().mean()


def _variance(x: Tensor) -> Tensor:
    """Unbiased, over the first dimension; `Tensor.var` takes ten times as long where that is short."""
    return (x - x.mean(0)).square().sum(0) / (len(x) - 1)


@REGULARIZERS.register(VarianceConstancyConfig)
class VarianceConstancy(Regularizer):
    """Lets each unit's pre-activation settle around few modes, with a learned beta per unit (eq. 17).

    beta starts at 1 and is a parameter that travels like weights; keep it out of weight decay:
    `SGD([{"params": model.parameters()}, {"params": regularizer.parameters(), "weight_decay": 0}])`. The paper clips
    the norm of each layer's gradient at 1 beside it (`train.clip_layers`).

    Args:
        model: hooked, not changed.
        example_inputs: [N, ...], a batch as the model takes it.
        options: see VarianceConstancyConfig.

    Raises:
        ValueError: an option is out of range, a layer pattern fits nothing, or the batch has fewer than 2n samples.
    """

    Options = VarianceConstancyConfig
    options: VarianceConstancyConfig

    def __init__(self, model: nn.Module, *, example_inputs: Tensor | None = None, **options: Any) -> None:
        super().__init__(model, **options)
        for name, calls in probe(model, self.layers, example_inputs).items():
            device, dtype = home(self.layers[name])
            for _, output in calls:
                self._enough(output)
                if not hasattr(self, where := _key(name, output)):
                    beta = torch.ones(output.shape[1:], device=device, dtype=dtype)
                    self.register_parameter(where, nn.Parameter(beta))

    def _enough(self, output: Tensor) -> None:
        if len(output) < 2 * self.options.n:
            raise ValueError(
                f"got a batch of {len(output)} and n = {self.options.n}, expected a batch of at least 2n ="
                f" {2 * self.options.n}; lower n or enlarge the batch"
            )

    def beta(self, layer: str, output: Tensor) -> Tensor:
        """beta of the units of a layer's output [N, ...].

        Raises:
            ValueError: example_inputs gave no output of this shape.
        """
        found = getattr(self, _key(layer, output), None)
        if not isinstance(found, Tensor):
            raise ValueError(
                f"got an output {tuple(output.shape)} of layer {layer!r}, expected samples of a shape that"
                " example_inputs had"
            )
        return found

    def observe(self, layer: str, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, int]:
        """The loss of one call with its gradients, from 2n of its samples, and how many units it has."""
        self._enough(output)
        beta = self.beta(layer, output)
        with torch.no_grad():
            beta.clamp_(min=FLOOR)
            rows = output[: 2 * self.options.n].to(beta.dtype, copy=True)
        with torch.enable_grad():
            rows.requires_grad_()
            loss = vcl_loss(rows, beta, self.options.n)
            of_rows, of_beta = torch.autograd.grad(loss, (rows, beta))
        return tap(output, loss.detach(), of_rows, beta, of_beta), beta.numel()

    def losses(self, seen: dict[str, list[Any]], targets: Tensor) -> dict[str, Tensor]:
        """The mean over the units of each layer; a layer that was called twice has twice as many."""
        return {
            name: torch.stack([loss * units for loss, units in calls]).sum() / sum(units for _, units in calls)
            for name, calls in seen.items()
        }


def _key(layer: str, output: Tensor) -> str:
    """A layer that is called on several shapes has a beta for each."""
    return f"{key(layer)} {'x'.join(str(side) for side in output.shape[1:])}"
