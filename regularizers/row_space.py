"""The row space of a classifier's weights: its basis by decomposition, or kept by construction. Imports torch only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ITERATIONS = 5
"""Newton-Schulz steps of `orthogonal`: they square the deviation, and one SGD step leaves a small one."""


@torch.no_grad()
def row_space(weight: Tensor) -> Tensor:
    """An orthonormal basis V of a matrix's row space, so that V Vᵀ projects onto it (thesis 5.3).

    From the C×C Gram matrix in float64, which costs less than an SVD; weights of float64 themselves are decomposed
    directly, because a Gram matrix halves the digits. The result's shape does not depend on the rank: directions
    below numerical rank are columns of zeros.

    Args:
        weight: [C, D].

    Returns:
        [D, min(C, D)], in the dtype of `weight`.
    """
    classes, features = weight.shape
    share = max(classes, features) * torch.finfo(weight.dtype).eps  # as numpy.linalg.matrix_rank
    # A diverged run is told by its loss, not by a decomposition that fails. Apple's GPUs have no float64.
    exact = (weight.cpu() if weight.device.type == "mps" else weight).nan_to_num().double()
    if weight.dtype == torch.float64 or classes > features:
        _, values, basis = torch.linalg.svd(exact, full_matrices=False)
        kept = values > share * values[0]
        return torch.where(kept[:, None], basis, 0.0).mT.to(weight).contiguous()
    squares, vectors = torch.linalg.eigh(exact @ exact.mT)
    kept = squares > share**2 * squares[-1]
    scale = torch.where(kept, squares.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
    found: Tensor = exact.mT @ (vectors * scale)
    return found.to(weight)


@torch.no_grad()
def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns, by Newton-Schulz iterations: products of matrices, no SVD.

    Args:
        matrix: [N, R] of rank R <= N, close to orthonormal for full accuracy.
    """
    gram = matrix.mT @ matrix
    # The largest absolute row sum bounds the largest eigenvalue: below 1 the iteration cannot diverge.
    matrix = matrix / gram.abs().sum(1).max().clamp_min(1).sqrt()
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(ITERATIONS):
        matrix = matrix @ (1.5 * eye - 0.5 * (matrix.mT @ matrix))
    return matrix


class FactoredLinear(nn.Linear):
    """A classifier whose weights are learned as U diag(s) Vᵀ, so that REVE needs no SVD (thesis, chapter 6).

    U and V are put back onto the orthogonal matrices before each forward pass in training. It has C² + C parameters
    more than the linear layer that it replaces, and starts with its weights.

    Args:
        linear: D -> C with C <= D.

    Raises:
        ValueError: the layer has more outputs than inputs.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make a weight
        if linear.out_features > linear.in_features:
            raise ValueError(
                f"got a classifier of {linear.in_features} inputs and {linear.out_features} outputs, expected at least"
                " as many inputs; use a plain linear one"
            )
        self.in_features, self.out_features = linear.in_features, linear.out_features
        left, scale, right = torch.linalg.svd(linear.weight.detach(), full_matrices=False)
        self.left = nn.Parameter(left.contiguous())
        self.scale = nn.Parameter(scale.contiguous())
        self.right = nn.Parameter(right.mT.contiguous())
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """U diag(s) Vᵀ, [C, D]."""
        return (self.left * self.scale) @ self.right.mT

    @torch.no_grad()
    def project(self) -> None:
        """Put U and V back onto the orthogonal matrices.

        Behind autograd's back: a second forward pass before the backward pass of the first one moves them by rounding
        errors only, and must not make the first one's saved tensors invalid.
        """
        self.left.data.copy_(orthogonal(self.left))
        self.right.data.copy_(orthogonal(self.right))

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b: [..., D] -> [..., C]."""
        if self.training:
            self.project()
        return functional.linear(x, self.weight, self.bias)
