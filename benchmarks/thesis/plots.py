"""A recipe's figure in the paper's form, as PNG. Imports matplotlib when it draws."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.thesis.recipe import Recipe

Found = dict[str, Any]

_LETTERS = 11
"""In an inch of a title."""

LABELS = {
    "step": "local steps of a worker",
    "seconds": "seconds of training",
    "training_loss": "training loss",
    "test_loss": "held-out loss",
    "test_accuracy": "held-out accuracy, %",
    "test_error": "held-out error, %",
    "reve_loss": "REVE loss on training batches",
}


def draw(recipe: Recipe, found: Found, path: Path) -> None:
    """Draw what was found."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = _FORMS[recipe.shows](pyplot, recipe, found["rows"])
    title = f"{recipe.title} ({found['scale']}\N{NO-BREAK SPACE}scale)"
    figure.suptitle(textwrap.fill(title, int(_LETTERS * figure.get_figwidth())), fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def curves(pyplot: Any, recipe: Recipe, rows: list[Found]) -> Any:
    """Panels of a quantity over another, a line an arm: the mean over seeds, with its range."""
    panels = recipe.panels
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.2 * len(panels), 4), constrained_layout=True)
    for axis, (across, up) in zip(np.atleast_1d(axes), panels, strict=True):
        for arm in dict.fromkeys(row["arm"] for row in rows):
            seeds = [_placed(row["figures"]["points"], across, up) for row in rows if row["arm"] == arm]
            length = min(map(len, seeds))
            x = [statistics.fmean(seed[at]["x"] for seed in seeds) for at in range(length)]
            y = np.array([[seed[at].get(up) for at in range(length)] for seed in seeds], float)
            (line,) = axis.plot(x, y.mean(0), ".-", lw=1.2, label=arm)
            if len(y) > 1:
                axis.fill_between(x, y.min(0), y.max(0), color=line.get_color(), alpha=0.15, lw=0)
        axis.set_xlabel(LABELS[across])
        axis.set_ylabel(LABELS[up])
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].legend(fontsize=8)
    return figure


def _placed(points: list[Found], across: str, up: str) -> list[Found]:
    """Points with their place `x`. Where the newest weights were in several evaluations, the last one has most of them.

    Losses on training batches are of the evaluating worker's step; files in which it is not noted have it as the
    oldest one.
    """
    if across == "step" and not up.startswith("test_"):
        return [point | {"x": point.get("evaluated_step", point["oldest_step"])} for point in points]
    return list({point["step"]: point | {"x": point[across]} for point in points}.values())


def lines(pyplot: Any, recipe: Recipe, rows: list[Found]) -> Any:
    """A line an arm over the numbers that rows are named by, with its deviation over seeds; the paper's dashed."""
    figure, axis = pyplot.subplots(figsize=(6.4, 4.2), constrained_layout=True)
    for arm in dict.fromkeys(row["arm"] for row in rows):
        names = dict.fromkeys(row["row"] for row in rows if row["arm"] == arm)
        values = [[row["figures"] for row in rows if (row["row"], row["arm"]) == (name, arm)] for name in names]
        spread = [statistics.stdev(one) if len(one) > 1 else 0.0 for one in values]
        means = [statistics.fmean(one) for one in values]
        drawn = axis.errorbar([number(name) for name in names], means, spread, fmt="o-", capsize=3, label=arm)
        paper = [(number(name), one[arm]) for name in names if arm in (one := recipe.paper.get(name, {}))]
        if paper:
            axis.plot(*zip(*paper, strict=True), "s--", ms=4, color=drawn[0].get_color(), label=f"{arm}, paper")
    axis.set_xscale("log")
    axis.set_xticks([number(name) for name in dict.fromkeys(row["row"] for row in rows)])
    axis.set_xticklabels(dict.fromkeys(row["row"] for row in rows))
    axis.minorticks_off()
    axis.set_xlabel(recipe.across)
    axis.set_ylabel(recipe.quantity)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def number(name: str) -> float:
    """What a row's name says: `30K` is 30,000."""
    factor = {"K": 1e3, "M": 1e6}.get(name[-1:], 1.0)
    return float(name.rstrip("KM").replace(",", "")) * factor


def table(pyplot: Any, recipe: Recipe, rows: list[Found]) -> Any:
    """Bars, grouped by row, with the standard deviation over seeds; the paper's figures as marks."""
    found = values(rows)
    names, arms = (list(dict.fromkeys(key[at] for key in found)) for at in (0, 1))
    figure, axis = pyplot.subplots(figsize=(max(5.0, 0.55 * len(found) + 2), 4.2), constrained_layout=True)
    width = 0.8 / len(arms)
    for at, arm in enumerate(arms):
        own = [(place, found[name, arm]) for place, name in enumerate(names) if (name, arm) in found]
        x = [place + (at - (len(arms) - 1) / 2) * width for place, _ in own]
        spread = [statistics.stdev(one) if len(one) > 1 else 0.0 for _, one in own]
        axis.bar(x, [statistics.fmean(one) for _, one in own], width, yerr=spread, capsize=2, label=arm or recipe.title)
        marks = [(a, recipe.paper.get(names[place], {}).get(arm)) for a, (place, _) in zip(x, own, strict=True)]
        axis.plot(
            *zip(*[mark for mark in marks if mark[1] is not None] or [(np.nan, np.nan)], strict=True), "k_", ms=12
        )
    axis.plot([], [], "k_", ms=12, label="paper")
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel(recipe.quantity)
    figure.legend(fontsize=8, ncols=3, loc="outside lower center")
    return figure


def densities(pyplot: Any, recipe: Recipe, rows: list[Found]) -> Any:
    """A row of densities for each network, the most accurate first."""
    ordered = sorted(rows, key=lambda row: row["figures"]["error"])
    across = max(len(row["figures"]["coordinates"]) for row in rows)
    size = (2.2 * across, 1.8 * len(rows))
    figure, axes = pyplot.subplots(len(rows), across, figsize=size, constrained_layout=True, squeeze=False)
    for line, row in zip(axes, ordered, strict=True):
        for axis in line:
            axis.set_yticks([])
            axis.tick_params(labelsize=6)
        for axis, one in zip(line, row["figures"]["coordinates"], strict=False):
            axis.fill_between(np.linspace(one["from"], one["to"], len(one["density"])), one["density"], alpha=0.6)
        line[0].set_ylabel(f"{row['row']}\n{row['figures']['error']:.1f} % error", fontsize=8)
    figure.supxlabel(f"value of each of the first {across} coordinates of Z", fontsize=9)
    figure.supylabel("density", fontsize=9)
    return figure


def values(rows: list[Found]) -> dict[tuple[str, str], list[float]]:
    """What all seeds gave, by row and arm; several figures of one run are arms of their own."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        figures = row["figures"] if isinstance(row["figures"], dict) else {row["arm"]: row["figures"]}
        for arm, value in figures.items():
            found.setdefault((row["row"], arm), []).append(value)
    return found


_FORMS: dict[str, Callable[[Any, Recipe, list[Found]], Any]] = {
    "curves": curves,
    "lines": lines,
    "table": table,
    "densities": densities,
}
