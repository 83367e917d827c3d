"""Gradients computed in the forward pass, put in where the backward pass comes by. Imports torch only.

A loss on a layer's output costs least where the output is still in the cache: value and gradient are made in one pass
there. The backward pass adds the gradient to the one that comes from the layers above, in place where nobody else holds
that one, which nobody but autograd can know.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        parameter: Tensor | None,
        value: Tensor,
        gradient: Tensor,
        parameter_gradient: Tensor | None,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(gradient, parameter_gradient)
        ctx.shape, ctx.dtype, ctx.scale = output.shape, output.dtype, scale
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        own, of_parameter = ctx.saved_tensors
        if of_parameter is not None:
            of_parameter = of_parameter * factor
        if not _known(factor, ctx.scale):
            # Of a small ratio float16 holds few digits: it would scale every element wrongly.
            wide = own.float() if own.dtype == torch.float16 else own
            own = wide * (factor / ctx.scale).to(wide.dtype)
        own = own.to(ctx.dtype)
        if len(own) < ctx.shape[0]:
            whole = own.new_zeros(ctx.shape)
            whole[: len(own)] = own
            own = whole
        return own, of_parameter, *[None] * 4


def _known(factor: Tensor, scale: float) -> bool:
    """Whether the loss is weighted as was said beforehand; asked only where the answer does not stop the host."""
    return factor.device.type == "cpu" and abs(float(factor) / scale - 1) <= 4 * torch.finfo(factor.dtype).eps


def tap(
    output: Tensor,
    value: Tensor,
    gradient: Tensor,
    parameter: Tensor | None = None,
    parameter_gradient: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Make a loss of a layer's output differentiable by gradients that are known already.

    Args:
        output: [N, ...] of the layer; its values may change in place later.
        value: scalar loss, without a graph.
        gradient: [n, ...] of scale times the loss, with respect to the first n <= N rows of the output; of its dtype
            or a wider one.
        parameter: that the loss depends on besides.
        parameter_gradient: of the loss with respect to it.
        scale: what the loss will probably be weighted with; a pass over the gradient is saved where it is.

    Returns:
        The loss.
    """
    return _Tap.apply(  # type: ignore[no-any-return, no-untyped-call, unused-ignore]
        output, parameter, value, gradient, parameter_gradient, scale
    )
