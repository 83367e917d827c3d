"""A run's checkpoints: which are kept, and which one a worker goes on from. Imports trainers.checkpoint_file.

They are per worker (divergent workers are not replicas) and hold no mail and no mass: a resumed job shares the mass out
anew before anyone steps.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trainers.checkpoint_file import About, check, peek, read, write

Seen = TypeVar("Seen")
_log = logging.getLogger("gosgd")
_NAME = re.compile(r"step-(\d{1,18})\.safetensors")
_FOLDER = re.compile(r"worker-(\d{1,9})")
KEPT = 2
"""Checkpoints of a worker; where workers go on together: steps of which every worker has one."""
_MOST_AHEAD = 32
"""Checkpoints that a worker keeps beyond the newest such step."""


@dataclass(frozen=True)
class Common:
    """Where workers go on together.

    Attributes:
        step: of all of them.
        sources: for each rank, the worker whose checkpoint it takes.
    """

    step: int
    sources: tuple[int, ...]


class Checkpoints:
    """The checkpoints of a run, of which this worker writes its own.

    Args:
        folder: `checkpoints/` of the run directory.
        rank: this worker.
        together: how many workers go on from the same step only; 0 where each goes on by itself.

    Attributes:
        saved: step of the last one written; -1 before the first.
        failures: how many could not be written.
    """

    def __init__(self, folder: Path, rank: int, together: int = 0) -> None:
        self._folder, self._rank, self._together = folder, rank, together
        self._own = _of(folder, rank)
        self.saved = -1
        self.failures = 0
        for draft in self._own.glob(".step-*"):  # of an earlier life that was killed while it wrote
            _remove(draft)

    def save(self, about: About, state: dict[str, Any]) -> bool:
        """Write a state, and forget all checkpoints but the newest few.

        Returns:
            False when it could not be written: training goes on, the earlier checkpoints stay.
        """
        try:
            write(_path(self._folder, self._rank, about.step), about, state)
        except (OSError, ValueError) as error:
            self.failures += 1
            _log.warning("checkpoint of step %d not written, training goes on: %s", about.step, error)
            return False
        self.saved = about.step
        kept = self._kept(about.step)
        for step, path in _found(self._own):
            if step not in kept:
                _remove(path)
        return True

    def _kept(self, newest: int) -> set[int]:
        """Steps to keep; later ones than the newest are of a course of the run that was given up."""
        own = [step for step, _ in _found(self._own) if step <= newest]
        if not self._together:
            return set(own[-KEPT:])
        complete = sorted(_complete(self._folder, self._together) & set(own))[-KEPT:]
        beyond = [step for step in own if not complete or step > complete[-1]]
        return {*complete, *beyond[-_MOST_AHEAD:]}

    def newest(self) -> tuple[About, dict[str, Any]] | None:
        """Where a worker goes on by itself; a checkpoint that is damaged is named and skipped.

        Its own newest one, if it is of the last job that has left any; else (the job has more workers now) the newest
        of anybody in that job.
        """
        paths = [path for worker in _workers(self._folder) for _, path in _found(_of(self._folder, worker))]
        known = [(about, path) for path in paths if (about := _look(peek, path))]
        last = max((about.job for about, _ in known), default=0)

        def order(entry: tuple[About, Path]) -> tuple[bool, int, int, int]:
            about, path = entry
            return path.parent != self._own or about.job != last, -about.job, -about.step, about.worker

        for _, path in sorted(known, key=order):
            if found := _look(read, path):
                return found
        return None

    def of(self, step: int, worker: int) -> tuple[About, dict[str, Any]]:
        """A certain one.

        Raises:
            ValueError: it is not there, or damaged.
        """
        return read(_path(self._folder, worker, step))


def common(folder: Path, workers: int) -> Common | None:
    """Where workers go on together; a checkpoint that is damaged is named and skipped.

    Each from its own, at the newest step of which all of them have one from the same job. Where there is no such step
    (they died at different times, or were another number), at the newest that any worker has saved.

    Args:
        folder: `checkpoints/` of the run directory.
        workers: M.
    """
    seen: dict[Path, About | None] = {}

    def whole(worker: int, step: int) -> About | None:
        path = _path(folder, worker, step)
        if path not in seen:
            seen[path] = _look(check, path) if path.exists() else None
        return seen[path]

    def of_one_job(step: int, sources: Sequence[int]) -> bool:
        jobs = {about and (about.job, about.workers) for about in (whole(source, step) for source in sources)}
        return len(jobs) == 1 and jobs.pop() is not None

    everybody = tuple(range(workers))
    for step in sorted(_complete(folder, workers), reverse=True):
        first = whole(0, step)
        if first and first.workers == workers and of_one_job(step, everybody):
            return Common(step, everybody)
    saved = [(step, worker) for worker in _workers(folder) for step, _ in _found(_of(folder, worker))]
    for step, worker in sorted(saved, key=lambda entry: (-entry[0], entry[1])):
        if whole(worker, step):
            own = tuple(rank if of_one_job(step, (worker, rank)) else worker for rank in everybody)
            _log.warning(
                "there is no step of which each of the %d workers has a whole checkpoint: they go on from step %d,"
                " with the checkpoints of workers %s",
                workers,
                step,
                ", ".join(map(str, sorted({*own}))),
            )
            return Common(step, own)
    return None


def _complete(folder: Path, workers: int) -> set[int]:
    """Steps of which each of the workers has a file."""
    return set.intersection(*({step for step, _ in _found(_of(folder, worker))} for worker in range(workers)))


def _look(how: Callable[[Path], Seen], path: Path) -> Seen | None:
    try:
        return how(path)
    except ValueError as error:
        _log.warning("checkpoint is damaged and skipped: %s", error)
        return None


def _workers(folder: Path) -> list[int]:
    """Who has ever saved anything."""
    return sorted(int(match[1]) for path in folder.glob("worker-*") if (match := _FOLDER.fullmatch(path.name)))


def _of(folder: Path, worker: int) -> Path:
    return folder / f"worker-{worker}"


def _path(folder: Path, worker: int, step: int) -> Path:
    return _of(folder, worker) / f"step-{step:09d}.safetensors"


def _found(own: Path) -> list[tuple[int, Path]]:
    if not own.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in own.iterdir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
