"""The picture of `gosgd consensus`: one panel a rate, log axis. Imports matplotlib, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from gossip.world import World
from launch.consensus_curve import Curve

_COLORS = {
    "gosgd": "tab:blue",
    "gosgd_adaptive": "tab:pink",
    "persyn": "tab:green",
    "easgd": "tab:red",
    "easgd_async": "tab:orange",
    "downpour": "tab:purple",
    "pairwise": "tab:cyan",
    "none": "tab:gray",
    "fully_sync": "tab:brown",
}
_LIVE_COLORS = {
    "gosgd": "navy",
    "gosgd_adaptive": "mediumvioletred",
    "persyn": "darkgreen",
    "easgd": "darkred",
    "easgd_async": "saddlebrown",
    "downpour": "indigo",
    "none": "black",
    "fully_sync": "maroon",
}
_PANELS_A_ROW = 3
_TEETH = 30
_DOTS = 100


def draw(path: Path, curves: list[Curve], live: list[Curve], world: World) -> None:
    """Means with a band of two standard errors, theory dashed, live runs as dots.

    Args:
        path: of the picture; its ending names the format.
        curves: of the simulation.
        live: of processes; may be empty.
        world: the settings, written above the picture.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rates: list[float | None] = [*sorted({curve.case.rho for curve in curves if curve.case.rho is not None})]
    rates = rates or [None]
    columns = min(_PANELS_A_ROW, len(rates))
    rows = -(-len(rates) // columns)
    size = (max(7.5, 4.6 * columns), 1.2 + 4.6 * rows)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, constrained_layout=True
    )
    floor, top = _limits(curves + live)
    scale = world.dimension * world.variance
    for axis, rho in zip(axes.flat, rates, strict=False):
        for curve in curves:
            if curve.case.rho in (rho, None):
                _simulated(axis, curve, floor, scale)
        for curve in live:
            if curve.case.rho in (rho, None):
                _live(axis, curve, floor, scale)
        if any(curve.theory is not None and curve.case.rho in (rho, None) for curve in curves):
            axis.plot([], [], "--", color="black", lw=1.0, label="exact expectation")
        axis.set_title("" if rho is None else rf"$\rho$ = {rho:g}")
        axis.set_yscale("log")
        axis.grid(alpha=0.25)
        legend = axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8, frameon=False)
        for handle in legend.get_lines():
            handle.set_linewidth(1.5)
    axes.flat[0].set_ylim(floor, 1.5 * top)
    for axis in axes.flat[len(rates) :]:
        axis.set_visible(False)
    unit = "updates per worker" if world.clock == "round" else "wake-ups of single workers"
    for axis in axes[-1]:
        axis.set_xlabel(f"step ({unit})")
    for axis in axes[:, 0]:
        axis.set_ylabel(r"consensus error $\varepsilon = \sum_m \|w_m - \bar w\|^2$")
    figure.suptitle(
        f"clock: {world.clock}, delivery: {world.delivery}; M = {world.workers}, D = {world.dimension},"
        rf" $\sigma^2$ = {world.variance:g}, {world.repeats} repeats, bands $\pm$ 2 standard errors"
        "\n"
        "messages: vectors sent per worker and step;"
        r" level: mean of $\varepsilon / (D \sigma^2)$ over the last half of the steps",
        fontsize=9,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _simulated(axis: Any, curve: Curve, floor: float, scale: float) -> None:
    color = _COLORS[curve.case.method]
    label = f"{curve.case.method}: {curve.case.messages:.3g} messages/step, level {curve.level / scale:.4g}"
    # Where most of what is seen is a curve going up and down, a thin line keeps its neighbours visible.
    dense = curve.theory is not None and np.count_nonzero(np.diff(curve.theory) < 0) > _TEETH
    axis.plot(curve.steps, np.maximum(curve.mean, floor), color=color, lw=0.5 if dense else 1.8, label=label)
    if curve.sem is not None:
        low, high = (np.maximum(curve.mean + sign * 2 * curve.sem, floor) for sign in (-1, 1))
        axis.fill_between(curve.steps, low, high, color=color, alpha=0.25, lw=0)
    if curve.theory is not None:
        axis.plot(curve.steps, np.maximum(curve.theory, floor), "--", color="black", lw=0.2 if dense else 0.7)


def _live(axis: Any, curve: Curve, floor: float, scale: float) -> None:
    """Dots: a single run is rough, and a line would hide the means behind it."""
    label = f"{curve.case.method}, live processes: level {curve.level / scale:.4g}"
    stride = max(1, len(curve.steps) // _DOTS) | 1
    steps, errors = curve.steps[::stride], np.maximum(curve.mean[::stride], floor)
    color = _LIVE_COLORS[curve.case.method]
    axis.plot(steps, errors, "o", ms=3, mec="white", mew=0.3, color=color, label=label, zorder=3)


def _limits(curves: list[Curve]) -> tuple[float, float]:
    """Where errors of 0, and of rounding, are drawn on a log axis (below everything else), and the largest error."""
    values: NDArray[np.float64] = np.concatenate([curve.mean for curve in curves])
    seen = values[values > 1e-6 * values.max()]
    return (float(seen.min() / 2), float(seen.max())) if len(seen) else (1e-12, 1e-11)
