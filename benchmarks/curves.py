"""Loss and accuracy by step and by clock, from the evaluations that runs wrote into their metrics. Imports runs.

The lowest worker evaluates while it should train. Where workers meet in every exchange all of them stand still
meanwhile, which is no property of the method: the clock is stopped for as long as an evaluation took. Evaluations on
the way use a part of the test set, because a worker that falls far behind would change what is measured.
"""

from __future__ import annotations

import math
import pickle
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import report, runs
from trainers.data.cifar10 import Cifar10Config, cifar10
from trainers.data.sources import TensorSource
from trainers.run_directory import RunDirectory

WORKERS = 8
BATCH_SIZE = 16
TRAINING_SAMPLES = 50_000
POINTS = 8
METHODS: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "fully_sync": {"method": "fully_sync"},
    "persyn rho=0.1": {"method": "persyn", "rho": 0.1},
    "gosgd rho=0.1": {"method": "gosgd", "rho": 0.1},
}
_COLLECTIVE = ("fully_sync", "persyn")
_LOGS_A_POINT = 5


def cifar(root: str, epochs: float, held_out: int, folder: Path) -> list[dict[str, Any]]:
    """The curves of all methods at the settings of the thesis' experiments (section 2.5).

    Args:
        epochs: passes over the training set of all workers together.
        held_out: test images of an evaluation on the way; the final model is scored on all of them.
    """
    settings = runs.recipe("cifar10")
    less = write_with_fewer_held_out(root, held_out, folder / "data")
    settings["data"] = settings["data"] | {"root": str(less), "batch_size": BATCH_SIZE}
    steps = math.ceil(epochs * TRAINING_SAMPLES / (WORKERS * BATCH_SIZE))
    found = []
    for method in METHODS:
        curve = measure(settings, method, WORKERS, steps, folder)
        curve["final"] = runs.score(folder / _name(method), "held out", f"data.root={root}")._asdict()
        found.append(curve)
    return found


def write_with_fewer_held_out(root: str, held_out: int, folder: Path) -> Path:
    """A copy of CIFAR-10 in its published form, with the first `held_out` images of its test set.

    Raises:
        ValueError: `root` does not hold the files.
    """
    sets = cifar10(Cifar10Config(root=root))
    assert isinstance(sets.train, TensorSource) and isinstance(sets.test, TensorSource)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    batches = zip(sets.train.x.chunk(5), sets.train.y.chunk(5), strict=True)
    files = {f"data_batch_{number}": batch for number, batch in enumerate(batches, start=1)}
    files["test_batch"] = (sets.test.x[:held_out], sets.test.y[:held_out])
    for name, (x, y) in files.items():
        content = {"data": x.reshape(len(x), -1).numpy(), "labels": y.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def _name(method: str) -> str:
    return f"curve-{method.partition(' ')[0]}"


def measure(settings: runs.Settings, method: str, workers: int, steps: int, folder: Path) -> dict[str, Any]:
    """One run and its curve."""
    log_every = max(1, steps // (POINTS * _LOGS_A_POINT))
    options = {"tensorboard": False, "log_every": log_every, "eval_every": log_every * _LOGS_A_POINT}
    where = folder / _name(method)
    report.progress(f"{method}: {workers} workers, {steps} steps each")
    summary = runs.train(
        settings | {"exchange": METHODS[method], "train": {"steps": steps}, "run": options}, workers, where
    )
    return {
        "method": method,
        "workers": workers,
        "steps": steps,
        "summary": summary,
        "points": points(where, method.startswith(_COLLECTIVE), BATCH_SIZE),
    }


def points(folder: Path, together: bool, batch_size: int) -> list[dict[str, Any]]:
    """The evaluations of a run, in order.

    Args:
        together: whether nobody trains while the lowest worker evaluates.
        batch_size: of a worker's step.

    `step` is the newest step that any of the averaged snapshots came from, so that no method looks faster by step
    than it was; `seconds` runs from the first step to the snapshot, evaluations taken out as said above, and what a run
    that was interrupted spent outside of training; `training_loss` is the mean over the workers when each of them was
    at `evaluated_step`, where the evaluating worker then was.
    """
    evaluations = _last_of_each_step(folder / "metrics.jsonl")
    logs = [_last_of_each_step(path) for path in sorted(folder.glob("workers/*/metrics.jsonl"))]
    if RunDirectory(folder).job() > 0:
        lost = _outside(logs[0], batch_size)
        for line in (*logs[0], *evaluations):
            line["time"] -= lost.get(line["step"], 0.0)
    began, pauses = _start(logs[0], batch_size), _pauses(logs[0], [line["step"] for line in evaluations])
    found, paused = [], 0.0
    for line, pause in zip(evaluations, pauses, strict=True):
        paused = pause + (paused if together else 0.0)
        there = [entry["loss"] for log in logs for entry in log if entry["step"] == line["step"]]
        found.append(
            {
                "step": line["newest_step"],
                "evaluated_step": line["step"],
                "oldest_step": line["oldest_step"],
                "seconds": line["time"] - began - paused,
                "seconds_recorded": line["time"] - began,
                "test_loss": line["test_loss"],
                "test_accuracy": line["test_accuracy"],
                "consensus_error": line["consensus_error"],
                "training_loss": statistics.fmean(there) if there else None,
            }
        )
    return found


def _last_of_each_step(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics; a run that goes on from a checkpoint writes those behind it again."""
    return list({line["step"]: line for line in runs.lines(path)}.values())


def _outside(log: list[dict[str, Any]], batch_size: int) -> dict[int, float]:
    """Seconds up to each line in which an interrupted run did not train: lines say at which pace steps were made."""
    lost, before = {log[0]["step"]: 0.0}, log[0]
    for line in log[1:]:
        trained = (line["step"] - before["step"]) * batch_size / line["samples_per_second"]
        lost[line["step"]] = lost[before["step"]] + max(0.0, line["time"] - before["time"] - trained)
        before = line
    return lost


def _start(log: list[dict[str, Any]], batch_size: int) -> float:
    """When the first step began: a line says how many samples a second there were up to it."""
    first = log[0]
    return float(first["time"] - first["step"] * batch_size / first["samples_per_second"])


def _pauses(log: list[dict[str, Any]], evaluated: list[int]) -> list[float]:
    """How long each evaluation held its worker up: what the line after it took longer than lines elsewhere.

    Where no line follows, the median of the others.
    """
    after: dict[int, float] = {}
    others: list[float] = []
    for before, line in pairwise(log):
        taken = float(line["time"] - before["time"])
        if before["step"] in evaluated:
            after[before["step"]] = taken
        else:
            others.append(taken)
    usual = statistics.median(others) if others else 0.0
    known = {step: max(0.0, taken - usual) for step, taken in after.items()}
    return [known.get(step, statistics.median(known.values()) if known else 0.0) for step in evaluated]


def show(curves: list[dict[str, Any]]) -> None:
    """Print every point."""
    rows = [
        [
            curve["method"],
            str(point["step"]),
            f"{point['seconds']:.1f}",
            f"{point['test_loss']:.4f}",
            f"{point['test_accuracy']:.2%}",
            "" if point["training_loss"] is None else f"{point['training_loss']:.4f}",
            f"{point['consensus_error']:.3g}",
        ]
        for curve in curves
        for point in curve["points"]
    ]
    print(f"\nconsensus model on held-out data, {curves[0]['workers']} workers")
    header = ["method", "step", "seconds", "loss", "accuracy", "training loss of the workers", "consensus error"]
    print(report.table(header, rows))
    for curve in curves:
        final = curve["final"]
        print(f"{curve['method']}, final model, whole test set: loss {final['loss']:.4f}, {final['accuracy']:.2%}")


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Two columns, by step and by clock; loss above accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), sharex="col", sharey="row", constrained_layout=True)
    across = {"step": "local steps of a worker", "seconds": "seconds of training"}
    up = {"test_loss": ("held-out loss", 1), "test_accuracy": ("held-out accuracy, %", 100)}
    for row, (what, (name, scale)) in zip(axes, up.items(), strict=True):
        row[0].set_ylabel(name)
        for axis, key in zip(row, across, strict=True):
            axis.grid(alpha=0.3)
            for curve in curves:
                found = curve["points"]
                axis.plot([p[key] for p in found], [scale * p[what] for p in found], ".-", label=curve["method"])
    for axis, name in zip(axes[1], across.values(), strict=True):
        axis.set_xlabel(name)
    axes[0][0].legend()
    figure.suptitle(f"CIFAR-10, consensus model of {curves[0]['workers']} workers")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
