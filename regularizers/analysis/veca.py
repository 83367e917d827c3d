"""VECA: the variance of the eigenvalues of the activations' covariance (Ge et al. 2020). Imports torch only."""

from __future__ import annotations

from torch import Tensor


def veca(activations: Tensor) -> Tensor:
    """Var(eigenvalues of C) = ‖C‖²_F / D − (tr C / D)², C the covariance of the units over samples.

    The covariance divides by K − 1, the variance of the eigenvalues by D.

    Args:
        activations: [K, D], K >= 2.

    Raises:
        ValueError: there are fewer than two samples.
    """
    if activations.dim() != 2 or len(activations) < 2:
        raise ValueError(f"got activations of shape {list(activations.shape)}, expected [K, D] with K >= 2")
    samples, units = activations.shape
    centred = activations - activations.mean(0)
    # ‖XᵀX‖_F = ‖XXᵀ‖_F: the smaller of both is enough.
    gram = centred.mT @ centred if units <= samples else centred @ centred.mT
    norm, trace = (gram / (samples - 1)).square().sum(), gram.diagonal().sum() / (samples - 1)
    return norm / units - (trace / units).square()
