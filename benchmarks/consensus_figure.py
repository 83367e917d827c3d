"""Thesis figures 2.3 and A.1 to A.3 drawn anew from the simulator. Imports gossip.simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import report
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.persyn import PerSynConfig
from gossip.simulate import Result, compare
from gossip.world import World

WORKERS = 8
RATES = (0.01, 0.1, 0.4)
_COMPARED: dict[str, Any] = {"GoSGD": GoSGDConfig, "PerSyn": PerSynConfig}


def figure(
    path: Path | None,
    repeats: int,
    dimension: int,
    steps: int,
    variance: float = 1.0,
    title: str = "Thesis figure 2.3",
) -> dict[str, Any]:
    """GoSGD beside PerSyn at three rates: consensus error a dimension, its level and how far it moves in time.

    Args:
        path: of the picture, one run beside the mean of many on a linear axis; None for no picture.
        variance: of an update, in each dimension.
        title: of the picture.
    """
    report.progress(title)
    world = World(WORKERS, dimension, steps, variance=variance, repeats=repeats, seed=4)
    methods = [(name, rho, kind(rho=rho)) for rho in RATES for name, kind in _COMPARED.items()]
    results = compare([config for _, _, config in methods], world)
    curves = [(name, rho, result) for (name, rho, _), result in zip(methods, results, strict=True)]
    if path is not None:
        _draw(path, title, curves, world)
    return {
        f"{name} rho={rho:g}": {
            "level": float(_last_half(result, world).mean()),
            "deviation_in_time": float(_last_half(result, world).std(1).mean()),
        }
        for name, rho, result in curves
    }


def _last_half(result: Result, world: World) -> npt.NDArray[np.float64]:
    """[R, T / 2], the error a dimension after each step of the last half: steps are counted from 1."""
    late: npt.NDArray[np.float64] = result.errors[:, result.steps > world.steps // 2] / world.dimension
    return late


def _draw(path: Path, title: str, curves: list[tuple[str, float, Result]], world: World) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colors = {"GoSGD": "tab:blue", "PerSyn": "tab:green"}
    figure, axes = pyplot.subplots(1, len(RATES), figsize=(14, 4.8), constrained_layout=True)
    for axis, rho, letter in zip(axes, RATES, "abc", strict=True):
        shown = min(world.steps, round(10 / rho)) if rho > min(RATES) else world.steps
        shown = max(shown, min(world.steps, 60))
        for name, at, result in curves:
            if at != rho:
                continue
            levels = result.errors / world.dimension
            steps, one, mean = result.steps[:shown], levels[0, :shown], levels.mean(0)[:shown]
            deviation = levels.std(0)[:shown]
            late = _last_half(result, world).mean()
            axis.plot(steps, one, color=colors[name], lw=1.0, label=f"{name}, one run")
            if name == "GoSGD":
                axis.plot(steps, mean, color="navy", lw=1.8, label=f"{name}, mean of {world.repeats} runs")
                low, high = np.maximum(0, mean - deviation), mean + deviation
                axis.fill_between(steps, low, high, color=colors[name], alpha=0.15, lw=0, label="its deviation")
            axis.axhline(late, color=colors[name], ls="--", lw=1.2, label=f"{name}, mean of the last half: {late:.4g}")
        axis.set_title(rf"({letter}) $\rho$ = {rho:g}")
        axis.set_xlabel("SGD step of each worker")
        axis.set_xlim(0, shown)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8, frameon=False)
    axes[0].set_ylabel(r"consensus error per dimension, $\varepsilon(t) / D$")
    figure.suptitle(
        f"{title}, simulated: M = {world.workers}, updates N(0, {world.variance:g}), D = {world.dimension},"
        f" clock: {world.clock}, delivery: {world.delivery} (panels differ in scale)",
        fontsize=11,
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
