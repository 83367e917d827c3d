"""All runs of a recipe, one after the other or side by side; what is there already is not run again. Imports runs.

Beside a run's folder stands NAME.json: its settings and the machine from its beginning on, its figures once it is
trained. A run that was interrupted goes on from its checkpoints; one whose settings are others now begins anew.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import report, runs
from benchmarks.curves import write_with_fewer_held_out
from benchmarks.options import told
from benchmarks.thesis.measures import MEASURES
from benchmarks.thesis.recipe import Settings, Task, merged
from configs.files import write_atomically
from trainers.data import DATA
from trainers.data.augment import Augment
from trainers.run_directory import RunDirectory
from trainers.schema import Run

_POLL_S = 0.1
_ON_THE_WAY = 2_000
_TIMED = ("seconds",)
"""Measures for which runs must not disturb each other, nor be held up by checkpoints."""
_CHECKPOINTS = 10
_STEPS_AT_RISK = 1_000
_FEWEST_STEPS = 50
_TRAINING_SAMPLES = {"cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257}
_ANY = {"batch_size": 1, "train_samples": None, "augment": Augment()}
"""Options that files have nothing to do with."""

Row = dict[str, Any]


class MissingDataError(ValueError):
    """Files of a data set are missing or damaged."""


class Workplace:
    """Where runs lie and where they find their data.

    Args:
        folder: of the recipe at its scale.
        root: with the files of the data sets.
        backgrounds: natural images for MNIST-M.
    """

    def __init__(self, folder: Path, root: Path, backgrounds: Path | None) -> None:
        self.folder, self._root, self._backgrounds = folder, root, backgrounds

    def known(self, task: Task) -> Row | None:
        """What is kept of a run: nothing before its beginning, no `figures` before its end.

        Returns:
            None if a run with other settings is kept; one that was kept without its settings counts as this one.
        """
        path = self._file(task)
        row: Row = json.loads(path.read_text()) if path.is_file() else {}
        return row if row.get("settings", task.settings) == task.settings else None

    def trained(self, task: Task) -> bool:
        """Whether the figures of a run are known."""
        return "figures" in (self.known(task) or {})

    def keep(self, task: Task, row: Row) -> None:
        """Keep what is known of a run."""
        write_atomically(self._file(task), lambda path: path.write_text(json.dumps(row) + "\n"))

    def _file(self, task: Task) -> Path:
        return self.folder / f"{task.name}.json"

    def located(self, task: Task, measure: str) -> Settings:
        """A task's settings with the paths of its data, and with checkpoints where its time is not what is measured.

        Curves of CIFAR-10 are evaluated on the first 2,000 test images, while the run is under way and after it.

        Raises:
            ValueError: files are missing.
        """
        name = task.settings["data"]["name"]
        found: Settings = {}
        if name == "table":
            found = {"path": str((self._root / task.settings["data"].get("path", "table.npz")).resolve())}
        elif name == "cifar10" and measure == "points":
            small = self.folder.parent / "fewer-held-out"
            if not (small / "test_batch").is_file():
                write_with_fewer_held_out(str(self._root), _ON_THE_WAY, small)
            found = {"root": str(small.resolve())}
        elif name != "digits":
            found = {"root": str(self._root.resolve())}
        if name == "mnist_m":
            found["backgrounds"] = str((self._backgrounds or self._root / "backgrounds.npz").resolve())
        every = 0 if measure in _TIMED else _checkpoint_every(task)
        return merged(task.settings, {"data": found, "run": {"checkpoint_every": every}})


def _checkpoint_every(task: Task) -> int:
    """A tenth of the steps, a thousand at most; none in runs of seconds."""
    train, data = task.settings["train"], task.settings["data"]
    steps = train.get("steps")
    if steps is None:
        samples = data.get("train_samples") or _TRAINING_SAMPLES[data["name"]]
        steps = train["epochs"] * samples / (data["batch_size"] * task.workers)
    return min(_STEPS_AT_RISK, int(steps) // _CHECKPOINTS) if steps >= _FEWEST_STEPS else 0


def run(tasks: Iterable[Task], measure: str, place: Workplace) -> list[Row]:
    """Train and measure all tasks that are not yet; a run that was interrupted goes on from its checkpoints.

    Raises:
        MissingDataError: files of their data are missing or damaged.
        RuntimeError: a run failed.
    """
    wanted = list(tasks)
    waiting = [task for task in reversed(wanted) if not place.trained(task)]
    _check_data(waiting, measure, place)
    running: list[tuple[Task, runs.Training]] = []
    try:
        while waiting or running:
            if waiting and (not running or _beside(waiting[-1], len(running), measure)):
                running.append((waiting[-1], _started(waiting.pop(), place, measure)))
                continue
            if all(not training.ended() for _, training in running):
                time.sleep(_POLL_S)
            for task, training in [pair for pair in running if pair[1].ended()]:
                running.remove((task, training))
                _measure(task, training, measure, place)
    finally:
        for _, training in running:
            training.stop()
    rows = [place.known(task) or {} for task in wanted]
    return [{key: value for key, value in row.items() if key != "settings"} for row in rows]


def _check_data(tasks: list[Task], measure: str, place: Workplace) -> None:
    """Read every data set once, so that what is missing is told before hours of training rather than between them."""
    read: list[Any] = []
    for task in tasks:
        try:
            data = Run.model_validate(place.located(task, measure)).data
            data = data.model_copy(update={key: value for key, value in _ANY.items() if hasattr(data, key)})
            if data not in read:
                DATA.get(data.name)(data)
        except ValueError as error:
            raise MissingDataError(told(error)) from None
        read.append(data)


def _beside(task: Task, others: int, measure: str) -> bool:
    """Whether a task may run beside others: each worker is to have a processor of its own."""
    return task.workers == 1 and measure not in _TIMED and others < (os.cpu_count() or 1)


def _started(task: Task, place: Workplace, measure: str) -> runs.Training:
    folder, row = place.folder / task.name, place.known(task)
    if RunDirectory(folder).running() is not None:
        report.progress(f"{task.name}: waits for the run that an earlier command left behind when it was killed")
        while RunDirectory(folder).running() is not None:
            time.sleep(_POLL_S)
    if row is None:
        report.progress(f"{task.name}: its settings are others now, it begins anew")
        shutil.rmtree(folder, ignore_errors=True)
    resume = folder.is_dir() and any(folder.iterdir())
    report.progress(f"{task.name}: {task.workers} workers{', goes on' if resume else ''}")
    machines = [*((row or {}).get("machines", []) if resume else []), report.machine()]
    begun = {"row": task.row, "arm": task.arm, "seed": task.seed, "settings": task.settings, "machines": machines}
    place.keep(task, begun)
    return runs.Training(place.located(task, measure), task.workers, folder, resume)


def _measure(task: Task, training: runs.Training, measure: str, place: Workplace) -> None:
    summary = training.summary()
    began = time.perf_counter()
    figures = MEASURES[measure](training.folder, summary, task)
    place.keep(task, (place.known(task) or {}) | {"steps": summary["steps"], "figures": figures})
    shown = figures if isinstance(figures, float) else summary["accuracy"]
    report.progress(f"{task.name}: {shown:.4g}, {summary['seconds'] + time.perf_counter() - began:.0f} s")
