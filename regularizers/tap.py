"""Gradients computed in the forward pass, put in where the backward pass comes by. Imports torch only.

A loss on a layer's output costs least where the output is still in the cache: value and gradient are made in one pass
there, and the backward pass adds the gradient in the same pass that hands on the one that comes from the layers above.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Tapped(NamedTuple):
    """What `Regularizer.observe` gives where the model is to go on with another output.

    Attributes:
        output: goes on through the model in place of the layer's own.
        kept: for `Regularizer.losses`.
    """

    output: Tensor
    kept: Any


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: Tensor, parameter: Tensor | None, value: Tensor, gradients: tuple[Tensor, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*gradients)
        ctx.shape = output.shape
        return output.detach(), value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor | None, factor: Tensor | None) -> tuple[Tensor | None, ...]:
        if factor is None:
            return above, None, None, None
        own, of_parameter = ctx.saved_tensors
        below = None if of_parameter is None else of_parameter * factor
        rows = len(own)
        if above is None:
            if rows == ctx.shape[0]:
                return own * factor.to(own.dtype), below, None, None
            above = own.new_zeros(ctx.shape)
        if rows == ctx.shape[0]:
            return torch.addcmul(above, own, factor.to(own.dtype)), below, None, None
        whole = above.clone()
        whole[:rows].addcmul_(own, factor.to(own.dtype))
        return whole, below, None, None


def tap(
    output: Tensor,
    value: Tensor,
    gradient: Tensor,
    parameter: Tensor | None = None,
    parameter_gradient: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Make a loss of a layer's output differentiable by gradients that are known already.

    Args:
        output: [N, ...] of the layer; its values may change in place later.
        value: scalar loss, without a graph.
        gradient: [n, ...] of the loss with respect to the first n <= N rows of the output.
        parameter: that the loss depends on besides.
        parameter_gradient: of the loss with respect to it.

    Returns:
        The output for the rest of the model, and the loss.
    """
    onwards, loss = _Tap.apply(output, parameter, value, (gradient, parameter_gradient))  # type: ignore[no-untyped-call]
    return onwards, loss
