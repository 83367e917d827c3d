"""Accuracy of the consensus model: gossip at rho = 0.1 against fully_sync at equal steps, paired by seed.

Every run is a `gosgd train` of its own. How long to train is found once a data set: until fully_sync with seed 0 passes
99.5 % on the training set. With --cifar: loss and accuracy on CIFAR-10 by step and by clock, for four methods.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks import curves, options, report, runs
from benchmarks.report import Bar
from trainers import data as datasets
from trainers.schema import Run

WORKERS = 4
RHO = 0.1
TARGET = 0.995
BAR_POINTS = -0.5
METHODS: dict[str, dict[str, Any]] = {
    "fully_sync": {"method": "fully_sync"},
    "gossip": {"method": "gosgd", "rho": RHO},
    "adaptive gossip": {"method": "gosgd", "rho": RHO, "peers": "adaptive"},
}
GOSSIP = ("gossip", "adaptive gossip")
_CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {},
    # At a constant rate of 0.1 fully_sync stays at 99 % of these images, however long it trains.
    "mnist": {"data": {"train_samples": 10_000}, "optimizer": {"schedule": {"name": "cosine"}}},
}
_FIRST_STEPS = {"digits": 200, "mnist": 1200}
_GROWTH = 1.25
_MOST_STEPS = 50_000


def settings(name: str, root: str, method: str, seed: int, steps: int) -> runs.Settings:
    """A recipe with its exchange, seed and length replaced."""
    made = runs.recipe(name)
    for section, changes in _CHANGES[name].items():
        made = made | {section: made[section] | changes}
    data = made["data"] | _rooted(made["data"], root)
    quiet = {"tensorboard": False, "log_every": 50}
    exchange = METHODS[method]
    return made | {"data": data, "exchange": exchange, "seed": seed, "train": {"steps": steps}, "run": quiet}


def check_data(names: Sequence[str], root: str) -> None:
    """Read data sets once, so that what is missing is told before hours of training.

    Raises:
        ValueError: files are missing or damaged.
    """
    for name in names:
        section = runs.recipe(name)["data"]
        datasets.build(Run.model_validate(runs.recipe(name) | {"data": section | _rooted(section, root)}).data).close()


def _rooted(section: runs.Settings, root: str) -> runs.Settings:
    return {"root": root} if "root" in section else {}


def trained(name: str, root: str, method: str, seed: int, steps: int, workers: int, folder: Path) -> dict[str, float]:
    """One run: accuracies in percent on the held-out and on the training set."""
    where = folder / f"{name}-{method}-{seed}-{steps}".replace(" ", "-")
    summary = runs.train(settings(name, root, method, seed, steps), workers, where)
    found = {
        "test": 100 * float(summary["accuracy"]),
        "train": 100 * runs.score(where, "training").accuracy,
        "seconds": float(summary["seconds"]),
    }
    report.progress(
        f"{name}, {method}, seed {seed}, {steps} steps: {found['test']:.2f} % held out, {found['train']:.2f} % in"
        f" training, {found['seconds']:.1f} s"
    )
    return found


def enough_steps(name: str, root: str, workers: int, folder: Path) -> int:
    """Steps after which fully_sync with seed 0 passes the target on the training set, to within a quarter."""
    steps = _FIRST_STEPS[name]
    while trained(name, root, "fully_sync", 0, steps, workers, folder)["train"] < 100 * TARGET:
        steps = round(steps * _GROWTH)
        if steps > _MOST_STEPS:
            raise RuntimeError(f"{name}: fully_sync stays below {TARGET:.1%} on the training set")
    return steps


def compare(name: str, root: str, seeds: int, steps: int | None, workers: int, folder: Path) -> dict[str, Any]:
    """All methods with the same seeds and steps; accuracies and differences from fully_sync in percentage points."""
    steps = steps or enough_steps(name, root, workers, folder / "search")
    pairs = [
        {method: trained(name, root, method, seed, steps, workers, folder / "pairs") for method in METHODS}
        for seed in range(seeds)
    ]
    behind = {
        method: interval([pair[method]["test"] - pair["fully_sync"]["test"] for pair in pairs]) for method in GOSSIP
    }
    return {"data": name, "workers": workers, "steps": steps, "pairs": pairs, "less fully_sync": behind}


def interval(differences: list[float], level: float = 0.95) -> dict[str, Any]:
    """Mean of paired differences with the interval of Student's t distribution; one pair has no interval."""
    mean, count = statistics.fmean(differences), len(differences)
    half = None
    if count > 1:
        half = float(stats.t.ppf((1 + level) / 2, count - 1)) * statistics.stdev(differences) / count**0.5
    return {"differences": differences, "mean": mean, "half_width": half, "level": level}


def show(compared: dict[str, Any]) -> list[Bar]:
    """Print one data set's table; returns its bars."""
    behind = compared["less fully_sync"]
    rows = []
    for seed, pair in enumerate(compared["pairs"]):
        figures = [f"{pair[method][half]:.2f}" for half in ("test", "train") for method in METHODS]
        rows.append([str(seed), *figures, *(f"{behind[method]['differences'][seed]:+.2f}" for method in GOSSIP)])
    means = [
        f"{statistics.fmean(pair[method][half] for pair in compared['pairs']):.2f}"
        for half in ("test", "train")
        for method in METHODS
    ]
    rows.append(["mean", *means, *(f"{behind[method]['mean']:+.2f}" for method in GOSSIP)])
    print(
        f"\n{compared['data']}: M = {compared['workers']}, {compared['steps']} steps a worker, gossip at rho = {RHO},"
        " accuracy in percent"
    )
    columns = [f"{half}, {method}" for half in ("held out", "training") for method in METHODS]
    print(report.table(["seed", *columns, *(f"{method} less fully_sync" for method in GOSSIP)], rows))
    for method in GOSSIP:
        half = behind[method]["half_width"]
        spread = "no interval from one pair" if half is None else f"95 % interval +- {half:.2f}"
        print(f"{method}: difference {behind[method]['mean']:+.2f} points, {spread}")
    print()
    return [
        Bar(f"{compared['data']}: {method} less fully_sync, points", ">=", BAR_POINTS, behind[method]["mean"])
        for method in GOSSIP
    ]


def main(arguments: list[str] | None = None) -> None:
    """Train, print, write."""
    parser = options.parser("accuracy", __doc__)
    parser.add_argument("--data-root", default="data", metavar="DIR", help="folder of MNIST's and CIFAR-10's files")
    parser.add_argument(
        "--sets", type=options.some_of(_CHANGES), default=",".join(_CHANGES), help=f"of {', '.join(_CHANGES)}"
    )
    parser.add_argument("--seeds", type=options.COUNT, default=5)
    parser.add_argument("--workers", type=options.COUNT, default=WORKERS)
    parser.add_argument("--steps", type=options.COUNT, help="steps a worker; by default as many as fully_sync needs")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the run directories there")
    parser.add_argument("--cifar", action="store_true", help="the curves on CIFAR-10 instead")
    parser.add_argument(
        "--epochs", type=options.above_zero, default=10.0, help="of CIFAR-10: passes of all workers together"
    )
    parser.add_argument(
        "--held-out", type=options.COUNT, default=2000, help="CIFAR-10 test images of an evaluation on the way"
    )
    parser.add_argument("--plot", type=options.output, metavar="FILE.png", help="draw CIFAR-10's curves there")
    given = parser.parse_args(arguments)
    if given.quick:
        small: dict[str, Any] = {"sets": "digits", "seeds": 1, "steps": given.steps or 20, "epochs": 0.1}
        given = argparse.Namespace(**{**vars(given), **small})
    found = report.machine()
    print(report.describe(found))
    root = str(Path(given.data_root).resolve())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = given.keep or Path(temporary)
        results: Any
        bars: list[Bar] = []
        with options.mistakes(parser):
            check_data(["cifar10"] if given.cifar else given.sets.split(","), root)
        if given.cifar:
            results = curves.cifar(root, given.epochs, given.held_out, folder)
            curves.show(results)
            if given.plot:
                curves.plot(results, given.plot)
        else:
            results = []
            for name in given.sets.split(","):
                results.append(compare(name, root, given.seeds, given.steps, given.workers, folder))
                bars += show(results[-1])
        report.finish(given, found, results, bars)


if __name__ == "__main__":
    report.run(main)
