"""The pictures of `gosgd report`, a function each. Imports launch's report_axes and report_read; needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib import pyplot

from launch.report_axes import (
    AXES,
    by_step_and_time,
    colors,
    each_worker,
    exchanged,
    legend,
    legend_beside,
    logarithmic,
    mark_failures,
    panels,
    steps_of,
    those_with,
    workers_and_mean,
)
from launch.report_read import Told

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
    "text.parse_math": False,
}
_DPI = 120
_FAULTS = {
    "failure": ("x", "#c0392b"),
    "restart": ("^", "#1e8449"),
    "restart_all": ("^", "#1e8449"),
    "leave": ("s", "#555"),
}


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
    for line in (line for axis in figure.axes for line in axis.get_lines()):
        if len(line.get_xdata()) == 1 and line.get_marker() == "None":  # a short run's: no line leads to it
            line.set_marker("o")
            line.set_markersize(2.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    pyplot.close(figure)
    return Picture(name, title, text, buffer.getvalue())


def _consensus_model(runs: Sequence[Told]) -> Picture | None:
    if not any(run.evaluations for run in runs):
        return None
    figure, axes = by_step_and_time(["accuracy", "loss"])
    for color, run in zip(colors(), runs, strict=False):
        for row, key in zip(axes, ("test_accuracy", "test_loss"), strict=True):
            told = [line for line in run.evaluations if line.get(key) is not None]
            values = [line[key] for line in told]
            for axis, x in zip(row, ([line["step"] for line in told], run.seconds(told)), strict=True):
                axis.plot(x, values, color=color, marker="o", markersize=2.5, linewidth=1.5, label=run.name)
        for row in axes:
            mark_failures(row[1], run)
    axes[0][0].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    logarithmic(axes[1][0], [line["test_loss"] for run in runs for line in run.evaluations if line.get("test_loss")])
    legend(axes[0][0])
    marked = " A vertical line: a worker failed." * any(run.events for run in runs)
    return _picture(
        "consensus-model",
        "The consensus model on held-out data",
        "The mean of the workers' published weights (or the central variable), evaluated while the workers train; the"
        f" step is that of the worker that evaluated.{marked}",
        figure,
    )


def _training(runs: Sequence[Told]) -> Picture | None:
    figure, axes = by_step_and_time(["training loss", "training accuracy"])
    for color, run in zip(colors(), runs, strict=False):
        for row, key in zip(axes, ("loss", "accuracy"), strict=True):
            for axis, x_of in zip(row, (steps_of, run.seconds), strict=True):
                workers_and_mean(axis, run, x_of, lambda line, key=key: line.get(key), color)  # type: ignore[misc]
    every = [line["loss"] for run in runs for told in run.workers.values() for line in told if line.get("loss")]
    logarithmic(axes[0][0], every)
    axes[1][0].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    legend(axes[0][0])
    return _picture(
        "training",
        "Training batches",
        "Mean over the batches between two lines of metrics: thin, each worker; thick, the mean of the workers.",
        figure,
    )


def _consensus_error(runs: Sequence[Told]) -> Picture | None:
    measured = {run.name: [line for line in run.evaluations if line.get("consensus_error")] for run in runs}
    guessed = any(
        exchanged(line, "consensus_estimate") for run in runs for told in run.workers.values() for line in told
    )
    if not any(measured.values()) and not guessed:
        return None
    figure, axes = by_step_and_time(["consensus error"])
    values: list[float] = []
    for color, run in zip(colors(), runs, strict=False):
        told = measured[run.name]
        values += [line["consensus_error"] for line in told]
        for axis, x in zip(axes[0], (steps_of(told), run.seconds(told)), strict=True):
            errors = [line["consensus_error"] for line in told]
            axis.plot(x, errors, color=color, linewidth=1.6, label=run.name if told else None)
        for seat, lines in run.workers.items():
            kept = [line for line in lines if exchanged(line, "consensus_estimate")]
            values += [line["exchange"]["consensus_estimate"] for line in kept]
            for axis, x in zip(axes[0], (steps_of(kept), run.seconds(kept)), strict=True):
                label = f"{run.name}, worker's estimate" if seat == min(run.workers) and kept else None
                guess = [line["exchange"]["consensus_estimate"] for line in kept]
                axis.plot(x, guess, color=color, alpha=0.3, linewidth=0.7, label=label)
        mark_failures(axes[0][1], run)
    logarithmic(axes[0][0], values)
    legend(axes[0][0])
    return _picture(
        "consensus-error",
        "Consensus error",
        "The sum over workers of the squared distance from their mean, at evaluations. Gossip workers also estimate it"
        " from the messages that they merge, without further communication (thin). Methods that have just averaged"
        " are at 0, which a logarithmic axis does not show.",
        figure,
    )


def _mass(runs: Sequence[Told]) -> Picture | None:
    kept = those_with(runs, "mass")
    if not kept:
        return None
    figure, axes = panels(kept)
    for axis, run in zip(axes, kept, strict=True):
        each_worker(axis, run, lambda line: exchanged(line, "mass"))
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
        legend_beside(axis)
    return _picture(
        "mass",
        "Mass",
        "What each worker's weights count in the consensus. Held, in flight and lost add up to 1 at every instant.",
        figure,
    )


def _staleness(runs: Sequence[Told]) -> Picture | None:
    kept = those_with(runs, "staleness_mean")
    if not kept:
        return None
    figure, axes = panels(kept)
    for axis, run in zip(axes, kept, strict=True):
        each_worker(axis, run, lambda line: exchanged(line, "staleness_mean"))
        each_worker(axis, run, lambda line: exchanged(line, "staleness_max"), alpha=0.3, named=False)
        axis.set_ylabel("staleness (steps)")
        axis.set_ylim(bottom=0)
        legend_beside(axis)
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
        each_worker(column[0], run, lambda line: line.get("samples_per_second"))
        each_worker(column[1], run, lambda line: exchanged(line, "longest_ms"))
        column[1].set_xlabel(AXES[1])
        column[0].set_ylim(bottom=0)
        for axis in column:
            mark_failures(axis, run)
    rows[0][0].set_ylabel("samples/s of a worker")
    rows[1][0].set_ylabel("longest exchange (ms)")
    told = [line for run in runs for lines in run.workers.values() for line in lines]
    logarithmic(rows[1][0], [exchanged(line, "longest_ms") or 0 for line in told])
    legend_beside(rows[0][-1])
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
    figure, axes = panels(kept, height=1.2 + 0.35 * seats)
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
        legend_beside(axis)
    return _picture(
        "faults", "Faults", "Each grey mark is a line of a worker's metrics: where they stop, it did.", figure
    )
