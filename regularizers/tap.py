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
    """(output, loss) of (output twice, parameter, ...): the output's two gradients meet in autograd's own sum.

    That sum is made in place where nobody else holds the gradient from above, which nobody but autograd can know. A
    gradient of few rows is sparse for the same reason: the sum then touches these rows only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        again: Tensor,
        parameter: Tensor | None,
        value: Tensor,
        gradient: Tensor,
        parameter_gradient: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, parameter_gradient)
        ctx.shape, ctx.scale = output.shape, scale
        return output.detach(), value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor | None, factor: Tensor | None) -> tuple[Tensor | None, ...]:
        if factor is None:
            return above, *[None] * 6
        own, of_parameter = ctx.saved_tensors
        if of_parameter is not None:
            of_parameter = of_parameter * factor
        if not _known(factor, ctx.scale):
            own = own * (factor / ctx.scale).to(own.dtype)
        rows, count = len(own), ctx.shape[0]
        if rows < count and above is None:
            whole = own.new_zeros(ctx.shape)
            whole[:rows] = own
            own = whole
        elif rows < count:
            index = torch.arange(rows, device=own.device)[None]
            own = torch.sparse_coo_tensor(index, own, ctx.shape, check_invariants=False, is_coalesced=True)
        return above, own, of_parameter, *[None] * 4


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
) -> tuple[Tensor, Tensor]:
    """Make a loss of a layer's output differentiable by gradients that are known already.

    Args:
        output: [N, ...] of the layer; its values may change in place later.
        value: scalar loss, without a graph.
        gradient: [n, ...] of scale times the loss, with respect to the first n <= N rows of the output.
        parameter: that the loss depends on besides.
        parameter_gradient: of the loss with respect to it.
        scale: what the loss will probably be weighted with; a pass over the gradient is saved where it is.

    Returns:
        The output for the rest of the model, and the loss.
    """
    onwards, loss = _Tap.apply(  # type: ignore[no-untyped-call]
        output, output, parameter, value, gradient, parameter_gradient, scale
    )
    return onwards, loss
