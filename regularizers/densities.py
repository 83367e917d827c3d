"""Densities of single coordinates: a Gaussian and a mixture of two, fitted to a batch. Imports torch only."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

VARIANCE_FLOOR = 1e-6


def gaussian_log_density(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(z; mean, variance), elementwise with the usual broadcasting."""
    return -0.5 * ((z - mean).square() / variance + variance.log() + math.log(2 * math.pi))


def mixture_log_density(z: Tensor, alpha: Tensor, high: tuple[Tensor, Tensor], low: tuple[Tensor, Tensor]) -> Tensor:
    """log(α N(z; μ₁, σ₁²) + (1 − α) N(z; μ₀, σ₀²)) by log-sum-exp (5.11).

    Args:
        z: [..., D].
        alpha: logits of the share of the high mode, log(α / (1 − α)), [D].
        high: its mean μ₁ and variance σ₁², [D] each.
        low: μ₀ and σ₀².
    """
    return torch.logaddexp(
        functional.logsigmoid(alpha) + gaussian_log_density(z, *high),
        functional.logsigmoid(-alpha) + gaussian_log_density(z, *low),
    )


def _weighted_moments(z: Tensor, share: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the weights, weighted mean and biased variance over the first dimension of z [N, D]."""
    total = share.sum(0).clamp_min(torch.finfo(z.dtype).tiny)
    mean = (share * z).sum(0) / total
    variance = (share * (z - mean).square()).sum(0) / total
    return total, mean, variance.clamp_min(floor)


def log_density(z: Tensor, mixture: bool = True, floor: float = VARIANCE_FLOOR) -> Tensor:
    """log q(z) of samples under the mixture, or the Gaussian, that fits them; the fit carries no gradient.

    π = sigmoid(z), α = mean π; μ₁ and σ₁² are the π-weighted, μ₀ and σ₀² the (1 − π)-weighted moments.

    Args:
        z: samples, [N, D].
        mixture: two modes (5.11) or a single Gaussian.
        floor: smallest variance.

    Returns:
        [N, D], one term a coordinate (5.10).
    """
    fixed = z.detach()
    if not mixture:
        variance, mean = torch.var_mean(fixed, 0, correction=0)
        return gaussian_log_density(z, mean, variance.clamp_min(floor))
    # 1 − sigmoid(z) as sigmoid(−z): it keeps its digits where the other mode is all but empty.
    above, *high = _weighted_moments(fixed, fixed.sigmoid(), floor)
    below, *low = _weighted_moments(fixed, (-fixed).sigmoid(), floor)
    return mixture_log_density(z, above.log() - below.log(), (high[0], high[1]), (low[0], low[1]))
