"""What is taken from one run of a recipe. Imports runs, curves, trainers and regularizers.analysis.

A row of `MEASURES` is a function `(folder, summary, task) -> figures`; what it gives is kept in JSON.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import curves, runs
from benchmarks.thesis.recipe import Task
from regularizers.analysis.binary import binarized, relus, tune
from regularizers.analysis.modes import fit_modes
from trainers.evaluation import evaluate
from trainers.finished import load_finished
from trainers.run_directory import RunDirectory

Summary = dict[str, Any]

_TOGETHER = ("fully_sync", "persyn", "easgd", "matrix")
_COORDINATES = 6
_SAMPLES = 2_000
_GRID = 80
_TUNED = 200


def accuracy(folder: Path, summary: Summary, task: Task) -> float:
    """Percent of the held-out samples that the final consensus model classifies as it should."""
    return 100 * float(summary["accuracy"])


def error(folder: Path, summary: Summary, task: Task) -> float:
    """100 less the accuracy."""
    return 100 - accuracy(folder, summary, task)


def seconds(folder: Path, summary: Summary, task: Task) -> float:
    """Of 100 steps of a worker, from the median of its lines of metrics; the first line holds what happens once."""
    paces = [line["samples_per_second"] for line in runs.lines(folder / "workers" / "0" / "metrics.jsonl")[1:]]
    return float(100 * task.settings["data"]["batch_size"] / statistics.median(paces))


def points(folder: Path, summary: Summary, task: Task) -> dict[str, Any]:
    """The evaluations on the way, and what the workers' own lines say at the same steps."""
    exchange = task.settings["exchange"]
    together = task.workers == 1 or (exchange["method"] in _TOGETHER and exchange.get("mode") != "async")
    found = curves.points(folder, together, task.settings["data"]["batch_size"])
    log = {line["step"]: line for line in runs.lines(folder / "workers" / "0" / "metrics.jsonl")}
    weights = {one["name"]: one["weight"] for one in task.settings.get("regularizers", [])}
    for point in found:
        for name, value in log.get(point["evaluated_step"], {}).get("regularizers", {}).items():
            point[f"{name}_loss"] = value / weights[name]
        point["test_error"] = 100 * (1 - point["test_accuracy"])
        point["test_accuracy"] *= 100
    return {"points": found, "accuracy": accuracy(folder, summary, task), "loss": summary["loss"]}


def densities(folder: Path, summary: Summary, task: Task) -> dict[str, Any]:
    """Densities of the first coordinates of Z = P h, h what the last linear layer reads, P onto its row space."""
    from launch.analyze import first, projected

    finished = load_finished(RunDirectory(folder))
    z = projected(finished.model, list(first(finished.data.test_batches(), _SAMPLES)))
    finished.data.close()
    assert z is not None, "the models of these recipes end with a linear layer"
    z = z[:, z.std(0) > 0]
    shown = []
    for values in z.mT[:_COORDINATES]:
        low, high = (float(values.quantile(q)) for q in (0.002, 0.998))
        histogram = torch.histogram(values, _GRID, range=(low, high), density=True)
        shown.append({"from": low, "to": high, "density": [round(v, 6) for v in histogram.hist.tolist()]})
    separation = float(fit_modes(z).separation.median())
    return {"coordinates": shown, "separation": separation, "error": error(folder, summary, task)}


def binary(folder: Path, summary: Summary, task: Task) -> dict[str, float]:
    """Accuracy with one ReLU binary, those behind it tuned, for the first, a middle and the last one."""
    finished = load_finished(RunDirectory(folder))
    names = list(relus(finished.model))
    chosen = dict.fromkeys(names[at] for at in (-1, len(names) // 2, 0))
    found = {"ReLU": accuracy(folder, summary, task)}
    for name in chosen:
        stream = finished.data.batches(rank=0, world_size=1, seed=task.seed)
        changed, parameters = binarized(finished.model, name, [next(stream) for _ in range(16)])
        if parameters:
            tune(changed, parameters, (next(stream) for _ in range(_TUNED)))
        stream.close()
        found[f"layer {names.index(name) + 1}"] = 100 * evaluate(changed, finished.data.test_batches()).accuracy
    finished.data.close()
    return found


MEASURES: dict[str, Callable[[Path, Summary, Task], Any]] = {
    function.__name__: function for function in (accuracy, error, seconds, points, densities, binary)
}
