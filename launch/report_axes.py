"""What the pictures of a report are drawn with: axes, legends, curves of workers. Imports launch.report_read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np

from launch.report_read import Line, Told

matplotlib.use("Agg")

from matplotlib import pyplot

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
AXES = ("step of a worker", "seconds since training began")
Axes = Any
_MEANS = 200


def by_step_and_time(labels: Sequence[str], height: float = 3.4) -> tuple[Any, Any]:
    """A row of axes for each label: by step on the left, by time on the right."""
    rows = len(labels)
    figure, axes = pyplot.subplots(
        rows, 2, figsize=(11, 0.4 + height * rows), sharex="col", sharey="row", squeeze=False, layout="constrained"
    )
    for row, label in zip(axes, labels, strict=True):
        row[0].set_ylabel(label)
    for axis, label in zip(axes[-1], AXES, strict=True):
        axis.set_xlabel(label)
    return figure, axes


def panels(runs: Sequence[Told], height: float = 3.2) -> tuple[Any, Any]:
    """One panel a run below the other, by time."""
    figure, axes = pyplot.subplots(
        len(runs), 1, figsize=(11, 0.4 + height * len(runs)), squeeze=False, layout="constrained"
    )
    for axis, run in zip(axes[:, 0], runs, strict=True):
        axis.set_title(run.name, loc="left")
        axis.set_xlabel(AXES[1])
        mark_failures(axis, run)
    return figure, axes[:, 0]


def legend(axis: Axes) -> None:
    """A legend, where there is something to be named."""
    if axis.get_legend_handles_labels()[1]:
        axis.legend()


def legend_beside(axis: Axes) -> None:
    """The same beside the curves."""
    if axis.get_legend_handles_labels()[1]:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02))


def mark_failures(axis: Axes, run: Told) -> None:
    """Where a worker failed, on an axis of time."""
    for event in run.events:
        if event["event"] == "failure":
            axis.axvline(event["time"] - run.began, color="#c0392b", alpha=0.35, linewidth=1, zorder=0)


def each_worker(
    axis: Axes, run: Told, value: Callable[[Line], float | None], alpha: float = 1.0, named: bool = True
) -> None:
    """One line a worker, by time, broken where the worker was away."""
    for color, (seat, told) in zip(colors(), run.workers.items(), strict=False):
        kept = [line for line in told if value(line) is not None]
        x, y = run.seconds(kept), [value(line) for line in kept]
        label = f"worker {seat}" if named and len(run.workers) <= 2 * len(COLORS) else None
        axis.plot(*_broken(x, y, run, seat), color=color, linewidth=1.2, alpha=alpha, label=label)


def _broken(x: list[float], y: list[Any], run: Told, seat: int) -> tuple[list[float], list[Any]]:
    fell = [
        event["time"] - run.began for event in run.events if event["event"] == "failure" and event.get("worker") == seat
    ]
    for when in fell:
        place = sum(one <= when for one in x)
        x, y = [*x[:place], when, *x[place:]], [*y[:place], np.nan, *y[place:]]
    return x, y


def workers_and_mean(
    axis: Axes, run: Told, x_of: Callable[[list[Line]], list[float]], value: Callable[[Line], float | None], color: str
) -> None:
    """A thin line a worker, and their mean."""
    curves = []
    for told in run.workers.values():
        kept = [line for line in told if value(line) is not None]
        x, y = np.array(x_of(kept), float), np.array([value(line) for line in kept], float)
        if len(x):
            curves.append((x, y))
            axis.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
    if not curves:
        return
    grid = np.linspace(min(x[0] for x, _ in curves), max(x[-1] for x, _ in curves), _MEANS)
    rows = [np.interp(grid, *_ascending(x, y), left=np.nan, right=np.nan) for x, y in curves]
    there = ~np.all(np.isnan(rows), axis=0)
    axis.plot(grid[there], np.nanmean(np.array(rows)[:, there], axis=0), color=color, linewidth=2, label=run.name)


def _ascending(x: Any, y: Any) -> tuple[Any, Any]:
    """A resumed run goes over some steps twice: the later figures count."""
    unique, first_from_the_end = np.unique(x[::-1], return_index=True)
    return unique, y[::-1][first_from_the_end]


def steps_of(told: list[Line]) -> list[float]:
    """Where lines of metrics stand on an axis of steps."""
    return [line["step"] for line in told]


def exchanged(line: Line, key: str) -> Any:
    """A figure of the exchange."""
    return (line.get("exchange") or {}).get(key)


def those_with(runs: Sequence[Told], key: str) -> list[Told]:
    """The runs in which a worker told this figure of the exchange."""
    return [
        run for run in runs if any(exchanged(line, key) is not None for told in run.workers.values() for line in told)
    ]


def logarithmic(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis, where the values ask for one."""
    positive = [value for value in values if value > 0 and np.isfinite(value)]
    if positive and max(positive) > 20 * min(positive):
        axis.set_yscale("log", subs=[])
        few = max(positive) < 1000 * min(positive)
        axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        axis.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))


def colors() -> Iterator[str]:
    """One after the other, without end."""
    while True:
        yield from COLORS
