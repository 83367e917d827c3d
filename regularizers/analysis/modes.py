"""The two modes of single neurons: a mixture of two Gaussians for each, and their densities (thesis, figure 5.1).

Imports regularizers.densities; matplotlib, an extra, where a picture is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from regularizers.densities import gaussian_log_density

ITERATIONS = 40
_FLOOR = 1e-6
_GRID = 256
_COLUMNS = 6


class Modes(NamedTuple):
    """A mixture of two Gaussians for each neuron, [D] each: the upper mode's share, means, variances."""

    share: Tensor
    high: tuple[Tensor, Tensor]
    low: tuple[Tensor, Tensor]

    @property
    def separation(self) -> Tensor:
        """Ashman's D = |μ₁ − μ₀| / √((σ₁² + σ₀²) / 2): above 2 the two modes are apart."""
        (mean1, variance1), (mean0, variance0) = self.high, self.low
        return (mean1 - mean0).abs() / ((variance1 + variance0) / 2).sqrt()


def fit_modes(values: Tensor) -> Modes:
    """The mixture of two Gaussians for each neuron by expectation-maximization, begun at REVE's π = sigmoid(z).

    A neuron's values are put to mean 0 and variance 1 first: the fit does not depend on its scale. A neuron that is
    constant has both modes at its value.

    Args:
        values: [N, D].
    """
    variance, mean = torch.var_mean(values.double(), 0, correction=0)
    scale = torch.where(variance > 0, variance, 1.0).sqrt()
    z = (values.double() - mean) / scale
    belongs = torch.sigmoid(2 * z)
    for _ in range(ITERATIONS):
        share = belongs.mean(0).clamp(_FLOOR, 1 - _FLOOR)
        high, low = (_moments(z, weight) for weight in (belongs, 1 - belongs))
        odds = gaussian_log_density(z, *high) - gaussian_log_density(z, *low) + torch.logit(share)
        belongs = torch.sigmoid(odds)
    swap = high[0] < low[0]
    upper, lower = (
        [torch.where(swap, b, a) for a, b in zip(one, other, strict=True)] for one, other in ((high, low), (low, high))
    )
    return Modes(
        torch.where(swap, 1 - share, share),
        (upper[0] * scale + mean, upper[1] * scale.square()),
        (lower[0] * scale + mean, lower[1] * scale.square()),
    )


def _moments(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = weight.sum(0).clamp_min(_FLOOR)
    mean = (weight * z).sum(0) / total
    return mean, ((weight * (z - mean).square()).sum(0) / total).clamp_min(_FLOOR)


def density(values: Tensor, grid: Tensor) -> Tensor:
    """A Gaussian kernel estimate with Silverman's bandwidth.

    Args:
        values: of one neuron, [N].
        grid: where, [G].

    Returns:
        [G].
    """
    low, high = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=values.dtype, device=values.device))
    spread = torch.minimum(values.std(), (high - low) / 1.34)
    bandwidth = 0.9 * torch.where(spread > 0, spread, values.std()) * len(values) ** -0.2
    return gaussian_log_density(grid[:, None], values, bandwidth.square().clamp_min(_FLOOR**2)).exp().mean(1)


def spread_out(order: Tensor, count: int) -> list[int]:
    """At most `count` neurons evenly spread over the ranks of `order` [D], the largest first, so that none is chosen
    for its looks."""
    ranked = order.argsort(descending=True).tolist()
    count = min(count, len(ranked))
    return [ranked[index * (len(ranked) - 1) // max(1, count - 1)] for index in range(count)]


def plot_modes(layers: dict[str, Tensor], path: Path, title: str = "") -> None:
    """Densities of some neurons of each layer with the two modes fitted to each (thesis, figure 5.1).

    Args:
        layers: activations [N, D] by what to call them.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(layers), _COLUMNS, figsize=(2.1 * _COLUMNS, 1.75 * len(layers) + 0.9), squeeze=False, layout="constrained"
    )
    for line, (name, values) in zip(axes, layers.items(), strict=True):
        alive = values[:, values.std(0) > 0].double().cpu()
        modes = fit_modes(alive)
        for axis in line:
            axis.set_yticks([])
            axis.tick_params(labelsize=7)
            axis.spines[["top", "left", "right"]].set_visible(False)
        line[0].set_ylabel(name, fontsize=8)
        for axis, neuron in zip(line, spread_out(modes.separation, _COLUMNS), strict=False):
            own = alive[:, neuron]
            low, high = own.quantile(0.001), own.quantile(0.999)
            margin = 0.1 * (high - low)
            grid = torch.linspace(float(low - margin), float(high + margin), _GRID, dtype=torch.double)
            axis.fill_between(grid, density(own[:5000], grid), color="tab:blue", alpha=0.3, lw=0)
            for share, mode, color in (
                (modes.share, modes.high, "tab:red"),
                (1 - modes.share, modes.low, "tab:green"),
            ):
                curve = share[neuron] * gaussian_log_density(grid, mode[0][neuron], mode[1][neuron]).exp()
                axis.plot(grid, curve, color=color, lw=1)
            axis.axvline(0, color="black", lw=0.5, ls=":")
            axis.set_ylim(0, 1.25 * float(density(own[:5000], grid).max()))
            axis.set_title(f"D = {modes.separation[neuron]:.1f}", fontsize=7)
    figure.suptitle(
        f"{title}densities of single neurons (blue) and two Gaussians fitted to each; from left to right, neurons from"
        " the best to the\nworst separated, evenly spread. D = |μ₁ - μ₀| / √((σ₁² + σ₀²) / 2): above 2 the modes are"
        " apart",
        fontsize=8,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
