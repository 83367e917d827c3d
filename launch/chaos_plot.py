"""The picture of `gosgd chaos`: throughput over time with every fault marked. Imports matplotlib, which is an extra."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

from launch.chaos_figures import Told

_BINS = 120
_COLORS = {
    "kill": "tab:red",
    "kill_again": "darkred",
    "kill_several": "black",
    "stop": "tab:orange",
    "partition": "tab:purple",
}


def draw(path: Path, undisturbed: Told, disturbed: Told, found: dict[str, Any]) -> None:
    """Steps a second of all workers together, undisturbed and under faults; below, how many workers were up."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (rates, workers) = pyplot.subplots(
        2, 1, figsize=(11, 6), sharex=True, height_ratios=[3, 1], constrained_layout=True
    )
    for told, color, name in ((undisturbed, "tab:gray", "undisturbed"), (disturbed, "tab:blue", "under faults")):
        rates.plot(*_rates(told), color=color, label=name, linewidth=1.4, drawstyle="steps-post")
    seen: set[str] = set()
    for event in disturbed.events:
        if (kind := event["event"]) in _COLORS:
            label = None if kind in seen else kind.replace("_", " ")
            seen.add(kind)
            rates.axvline(event["time"] - disturbed.began, color=_COLORS[kind], alpha=0.5, linewidth=0.9, label=label)
    rates.set_ylim(bottom=0)
    rates.set_ylabel("local steps a second, all workers")
    rates.legend(loc="lower left", ncols=4, fontsize="small")
    rates.set_title(
        f"{found['workers']} workers, {found['killed']} processes killed: {found['kept']:.1%} of the steps kept,"
        f" {found['kept_without_downtime']:.1%} without the victims' downtime"
    )
    workers.plot(
        [look.time - disturbed.began for look in disturbed.looks],
        [look.up for look in disturbed.looks],
        color="tab:blue",
        drawstyle="steps-post",
        linewidth=1.0,
    )
    workers.set_ylim(0, disturbed.workers + 0.5)
    workers.set_ylabel("workers up")
    workers.set_xlabel("seconds")
    workers.set_xlim(0, max(told.looks[-1].time - told.began for told in (undisturbed, disturbed)))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _rates(told: Told) -> tuple[list[float], list[float]]:
    end = told.looks[-1].time - told.began
    width = end / _BINS
    made = [told.steps_within(width * number) for number in range(_BINS + 1)]
    return [width * number for number in range(_BINS)], [(after - before) / width for before, after in pairwise(made)]
