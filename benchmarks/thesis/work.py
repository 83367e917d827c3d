"""All runs of a recipe, one after the other or side by side; what is there already is not run again. Imports runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import report, runs
from benchmarks.curves import write_with_fewer_held_out
from benchmarks.thesis.measures import MEASURES
from benchmarks.thesis.recipe import Settings, Task, merged
from configs.files import write_atomically
from trainers.run_directory import RunDirectory

_POLL_S = 0.1
_ON_THE_WAY = 2_000
_TIMED = ("seconds",)
"""Measures for which runs must not disturb each other."""

Row = dict[str, Any]


class Workplace:
    """Where runs lie and where they find their data.

    Args:
        folder: of the recipe at its scale.
        root: with the files of the data sets.
        backgrounds: natural images for MNIST-M.
    """

    def __init__(self, folder: Path, root: Path, backgrounds: Path | None) -> None:
        self.folder, self._root, self._backgrounds = folder, root, backgrounds

    def kept(self, task: Task) -> Path:
        """Where the figures of a run are kept."""
        return self.folder / f"{task.name}.json"

    def located(self, settings: Settings, less: bool) -> Settings:
        """Settings with the paths of their data.

        Args:
            less: evaluate on the first 2,000 test images of CIFAR-10 only, while the run is under way and after it.
        """
        name = settings["data"]["name"]
        found: Settings = {}
        if name == "table":
            found = {"path": str(self._root / settings["data"].get("path", "table.npz"))}
        elif name == "cifar10" and less:
            small = self.folder.parent / "fewer-held-out"
            if not (small / "test_batch").is_file():
                write_with_fewer_held_out(str(self._root), _ON_THE_WAY, small)
            found = {"root": str(small.resolve())}
        elif name != "digits":
            found = {"root": str(self._root.resolve())}
        if name == "mnist_m":
            found["backgrounds"] = str((self._backgrounds or self._root / "backgrounds.npz").resolve())
        return merged(settings, {"data": found})


def run(tasks: Iterable[Task], measure: str, place: Workplace) -> list[Row]:
    """Train and measure all tasks; a run that was interrupted goes on from its checkpoints.

    Raises:
        RuntimeError: a run failed.
    """
    wanted = list(tasks)
    waiting = [task for task in reversed(wanted) if not place.kept(task).is_file()]
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
    return [json.loads(place.kept(task).read_text()) for task in wanted]


def _beside(task: Task, others: int, measure: str) -> bool:
    """Whether a task may run beside others: each worker is to have a processor of its own."""
    return task.workers == 1 and measure not in _TIMED and others < (os.cpu_count() or 1)


def _started(task: Task, place: Workplace, measure: str) -> runs.Training:
    folder = place.folder / task.name
    report.progress(f"{task.name}: {task.workers} workers")
    resume = RunDirectory(folder).resolved.is_file()
    return runs.Training(place.located(task.settings, measure == "points"), task.workers, folder, resume)


def _measure(task: Task, training: runs.Training, measure: str, place: Workplace) -> None:
    summary = training.summary()
    began = time.perf_counter()
    row: Row = {"row": task.row, "arm": task.arm, "seed": task.seed, "steps": summary["steps"]}
    row["figures"] = MEASURES[measure](training.folder, summary, task)
    write_atomically(place.kept(task), lambda path: path.write_text(json.dumps(row) + "\n"))
    shown = row["figures"] if isinstance(row["figures"], float) else summary["accuracy"]
    report.progress(f"{task.name}: {shown:.4g}, {summary['seconds'] + time.perf_counter() - began:.0f} s")
