"""The pictures of `gosgd report`, a function each. Imports launch.report_read and matplotlib, which is an extra."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np

from launch.report_read import Line, Told

matplotlib.use("Agg")

from matplotlib import pyplot

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
_STYLE: Any = {
    "axes.edgecolor": "#8a8f98",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.fontsize": 9,
    "legend.frameon": False,
}
_DPI = 120
_MEANS = 200
_FAULTS = {
    "failure": ("x", "#c0392b"),
    "restart": ("^", "#1e8449"),
    "restart_all": ("^", "#1e8449"),
    "leave": ("s", "#555"),
}
_AXES = ("step of a worker", "seconds since training began")
Axes = Any


@dataclass(frozen=True)
class Picture:
    """One picture as it stands on the page.

    Attributes:
        name: of its file.
        title: above it.
        text: what is to be seen.
        png: the file.
    """

    name: str
    title: str
    text: str
    png: bytes


def pictures(runs: Sequence[Told]) -> Iterator[Picture]:
    """Every picture for which the runs have figures."""
    with matplotlib.rc_context(_STYLE):
        for draw in (_consensus_model, _training, _consensus_error, _mass, _staleness, _pace, _faults):
            if (made := draw(runs)) is not None:
                yield made


def _picture(name: str, title: str, text: str, figure: Any) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    pyplot.close(figure)
    return Picture(name, title, text, buffer.getvalue())


def _by_step_and_time(labels: Sequence[str], height: float = 3.4) -> tuple[Any, Any]:
    """A row of axes for each label: by step on the left, by time on the right."""
    rows = len(labels)
    figure, axes = pyplot.subplots(
        rows, 2, figsize=(11, 0.4 + height * rows), sharex="col", sharey="row", squeeze=False, layout="constrained"
    )
    for row, label in zip(axes, labels, strict=True):
        row[0].set_ylabel(label)
    for axis, label in zip(axes[-1], _AXES, strict=True):
        axis.set_xlabel(label)
    return figure, axes


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[1]:
        axis.legend()


def _legend_beside(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[1]:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _mark_failures(axis: Axes, run: Told) -> None:
    """Where a worker failed, on an axis of time."""
    for event in run.events:
        if event["event"] == "failure":
            axis.axvline(event["time"] - run.began, color="#c0392b", alpha=0.35, linewidth=1, zorder=0)


def _consensus_model(runs: Sequence[Told]) -> Picture | None:
    if not any(run.evaluations for run in runs):
        return None
    figure, axes = _by_step_and_time(["accuracy", "loss"])
    for color, run in zip(_cycle(), runs, strict=False):
        for row, key in zip(axes, ("test_accuracy", "test_loss"), strict=True):
            told = [line for line in run.evaluations if line.get(key) is not None]
            values = [line[key] for line in told]
            for axis, x in zip(row, ([line["step"] for line in told], run.seconds(told)), strict=True):
                axis.plot(x, values, color=color, marker="o", markersize=2.5, linewidth=1.5, label=run.name)
        for row in axes:
            _mark_failures(row[1], run)
    axes[0][0].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    _log(axes[1][0], [line["test_loss"] for run in runs for line in run.evaluations if line.get("test_loss")])
    _legend(axes[0][0])
    marked = " A vertical line: a worker failed." * any(run.events for run in runs)
    return _picture(
        "consensus-model",
        "The consensus model on held-out data",
        "The mean of the workers' published weights (or the central variable), evaluated while the workers train; the"
        f" step is that of the worker that evaluated.{marked}",
        figure,
    )


def _training(runs: Sequence[Told]) -> Picture | None:
    figure, axes = _by_step_and_time(["training loss", "training accuracy"])
    for color, run in zip(_cycle(), runs, strict=False):
        for row, key in zip(axes, ("loss", "accuracy"), strict=True):
            for axis, x_of in zip(row, (_steps, run.seconds), strict=True):
                _workers_and_mean(axis, run, x_of, lambda line, key=key: line.get(key), color)  # type: ignore[misc]
    every = [line["loss"] for run in runs for told in run.workers.values() for line in told if line.get("loss")]
    _log(axes[0][0], every)
    axes[1][0].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    _legend(axes[0][0])
    return _picture(
        "training",
        "Training batches",
        "Mean over the batches between two lines of metrics: thin, each worker; thick, the mean of the workers.",
        figure,
    )


def _consensus_error(runs: Sequence[Told]) -> Picture | None:
    measured = {run.name: [line for line in run.evaluations if line.get("consensus_error")] for run in runs}
    guessed = any(_of(line, "consensus_estimate") for run in runs for told in run.workers.values() for line in told)
    if not any(measured.values()) and not guessed:
        return None
    figure, axes = _by_step_and_time(["consensus error"])
    values: list[float] = []
    for color, run in zip(_cycle(), runs, strict=False):
        told = measured[run.name]
        values += [line["consensus_error"] for line in told]
        for axis, x in zip(axes[0], (_steps(told), run.seconds(told)), strict=True):
            errors = [line["consensus_error"] for line in told]
            axis.plot(x, errors, color=color, linewidth=1.6, label=run.name if told else None)
        for seat, lines in run.workers.items():
            kept = [line for line in lines if _of(line, "consensus_estimate")]
            values += [line["exchange"]["consensus_estimate"] for line in kept]
            for axis, x in zip(axes[0], (_steps(kept), run.seconds(kept)), strict=True):
                label = f"{run.name}, worker's estimate" if seat == min(run.workers) and kept else None
                guess = [line["exchange"]["consensus_estimate"] for line in kept]
                axis.plot(x, guess, color=color, alpha=0.3, linewidth=0.7, label=label)
        _mark_failures(axes[0][1], run)
    _log(axes[0][0], values)
    _legend(axes[0][0])
    return _picture(
        "consensus-error",
        "Consensus error",
        "The sum over workers of the squared distance from their mean, at evaluations. Gossip workers also estimate it"
        " from the messages that they merge, without further communication (thin). Methods that have just averaged"
        " are at 0, which a logarithmic axis does not show.",
        figure,
    )


def _mass(runs: Sequence[Told]) -> Picture | None:
    kept = [run for run in runs if any(_of(line, "mass") is not None for told in run.workers.values() for line in told)]
    if not kept:
        return None
    figure, axes = _panels(kept)
    for axis, run in zip(axes, kept, strict=True):
        _each_worker(axis, run, lambda line: _of(line, "mass"))
        told = [line for line in run.evaluations if "in_flight" in (line.get("ledger") or {})]
        if told:
            axis.plot(
                run.seconds(told), [line["ledger"]["in_flight"] for line in told], "k:", lw=1.2, label="in flight"
            )
            lost = [line["ledger"]["lost"] for line in told]
            if any(lost):
                axis.plot(run.seconds(told), lost, color="#c0392b", lw=1.4, label="lost with its holders")
        axis.set_ylabel("mass")
        axis.set_ylim(bottom=0)
        _legend_beside(axis)
    return _picture(
        "mass",
        "Mass",
        "What each worker's weights count in the consensus. Held, in flight and lost add up to 1 at every instant.",
        figure,
    )


def _staleness(runs: Sequence[Told]) -> Picture | None:
    def mean(line: Line) -> float | None:
        found: float | None = _of(line, "staleness_mean")
        return found

    kept = [run for run in runs if any(mean(line) is not None for told in run.workers.values() for line in told)]
    if not kept:
        return None
    figure, axes = _panels(kept)
    for axis, run in zip(axes, kept, strict=True):
        _each_worker(axis, run, mean)
        _each_worker(axis, run, lambda line: _of(line, "staleness_max"), alpha=0.3, named=False)
        axis.set_ylabel("staleness (steps)")
        axis.set_ylim(bottom=0)
        _legend_beside(axis)
    return _picture(
        "staleness",
        "Staleness of merged messages",
        "How many local steps the receiver was ahead of the weights it merged: the mean between two lines of metrics,"
        " and, pale, the largest.",
        figure,
    )


def _pace(runs: Sequence[Told]) -> Picture | None:
    figure, rows = pyplot.subplots(
        2, len(runs), figsize=(11, 6), sharex="col", sharey="row", squeeze=False, layout="constrained"
    )
    for column, run in zip(rows.T, runs, strict=True):
        column[0].set_title(run.name)
        _each_worker(column[0], run, lambda line: line.get("samples_per_second"))
        _each_worker(column[1], run, lambda line: _of(line, "longest_ms"))
        column[1].set_xlabel(_AXES[1])
        column[0].set_ylim(bottom=0)
        for axis in column:
            _mark_failures(axis, run)
    rows[0][0].set_ylabel("samples/s of a worker")
    rows[1][0].set_ylabel("longest exchange (ms)")
    _log(rows[1][0], [_of(line, "longest_ms") or 0 for run in runs for told in run.workers.values() for line in told])
    _legend_beside(rows[0][-1])
    return _picture(
        "pace",
        "Pace",
        "Samples a second of each worker, and the longest that it spent in `exchange.step()` between two lines of"
        " metrics: for methods that meet, this is the time spent waiting.",
        figure,
    )


def _faults(runs: Sequence[Told]) -> Picture | None:
    kept = [run for run in runs if run.events]
    if not kept:
        return None
    seats = max(len(run.workers) for run in kept)
    figure, axes = _panels(kept, height=1.2 + 0.35 * seats)
    for axis, run in zip(axes, kept, strict=True):
        named: set[str] = set()
        for seat, told in run.workers.items():
            when = run.seconds(told)
            axis.plot(when, [seat] * len(when), "|", color="#9aa5b1", markersize=7)
        for event in run.events:
            marker, color = _FAULTS[event["event"]]
            kind = event["event"].replace("_", " ")
            label = None if kind in named else kind
            named.add(kind)
            where = event.get("worker", -1)
            style: dict[str, Any] = {"color": color, "markersize": 8, "linestyle": "", "label": label}
            axis.plot([event["time"] - run.began], [where], marker=marker, **style)
        rows = [*([-1] if any("server" in event for event in run.events) else []), *run.workers]
        axis.set_yticks(rows, ["server" if row < 0 else f"worker {row}" for row in rows])
        axis.set_ylim(max(rows) + 0.6, min(rows) - 0.6)
        axis.grid(axis="y", visible=False)
        _legend_beside(axis)
    return _picture(
        "faults", "Faults", "Each grey mark is a line of a worker's metrics: where they stop, it did.", figure
    )


def _panels(runs: Sequence[Told], height: float = 3.2) -> tuple[Any, Any]:
    """One panel a run below the other, by time."""
    figure, axes = pyplot.subplots(
        len(runs), 1, figsize=(11, 0.4 + height * len(runs)), squeeze=False, layout="constrained"
    )
    for axis, run in zip(axes[:, 0], runs, strict=True):
        axis.set_title(run.name, loc="left")
        axis.set_xlabel(_AXES[1])
        _mark_failures(axis, run)
    return figure, axes[:, 0]


def _each_worker(
    axis: Axes, run: Told, value: Callable[[Line], float | None], alpha: float = 1.0, named: bool = True
) -> None:
    """One line a worker, by time, broken where the worker was away."""
    for color, (seat, told) in zip(_cycle(), run.workers.items(), strict=False):
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


def _workers_and_mean(
    axis: Axes, run: Told, x_of: Callable[[list[Line]], list[float]], value: Callable[[Line], float | None], color: str
) -> None:
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


def _steps(told: list[Line]) -> list[float]:
    return [line["step"] for line in told]


def _of(line: Line, key: str) -> Any:
    """A figure of the exchange."""
    return (line.get("exchange") or {}).get(key)


def _log(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis, where the values ask for one."""
    positive = [value for value in values if value > 0 and np.isfinite(value)]
    if positive and max(positive) > 20 * min(positive):
        axis.set_yscale("log", subs=[])
        few = max(positive) < 1000 * min(positive)
        axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        axis.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))


def _cycle() -> Iterator[str]:
    while True:
        yield from COLORS
