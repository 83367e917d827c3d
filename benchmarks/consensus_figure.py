"""Thesis figure 2.3 drawn anew from the simulator; part of benchmarks.consensus. Imports gossip.simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.persyn import PerSynConfig
from gossip.simulate import Result, compare
from gossip.world import World

WORKERS = 8
RATES = (0.01, 0.1, 0.4)
_COMPARED: dict[str, Any] = {"GoSGD": GoSGDConfig, "PerSyn": PerSynConfig}


def figure(path: Path | None, repeats: int, dimension: int, steps: int, variance: float = 1.0) -> dict[str, Any]:
    """Thesis figure 2.3: GoSGD beside PerSyn at three rates, one run beside the mean of many, on a linear axis."""
    report.progress("figure 2.3")
    world = World(WORKERS, dimension, steps, variance=variance, repeats=repeats, seed=4)
    methods = [(name, rho, kind(rho=rho)) for rho in RATES for name, kind in _COMPARED.items()]
    results = compare([config for _, _, config in methods], world)
    if path is not None:
        _draw(path, [(name, rho, result) for (name, rho, _), result in zip(methods, results, strict=True)], world)
    return {
        f"{name} rho={rho:g}": {
            "level": result.level(steps // 2)[0] / dimension,
            "deviation_in_time": float(result.errors[:, steps // 2 :].std(1).mean() / dimension),
        }
        for (name, rho, _), result in zip(methods, results, strict=True)
    }


def _draw(path: Path, curves: list[tuple[str, float, Result]], world: World) -> None:
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
            late = levels[:, world.steps // 2 :].mean()
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
        f"Thesis figure 2.3, simulated: M = {world.workers}, updates N(0, 1), D = {world.dimension},"
        f" clock: {world.clock}, delivery: {world.delivery} (panels differ in scale)",
        fontsize=11,
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
