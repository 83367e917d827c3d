"""Adding workers to a job that is running: `gosgd train --join RUN_DIR`. Imports launch's lower modules and gossip.

The workers that join are members like all others, on seats above those the job was started with. Their launcher keeps
the seats, so that two that join at once never want the same one, and looks after its own workers only.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from gossip.directory import JobDirectory
from launch.places import Place
from launch.plan import Plan, make_plan
from launch.settings import read
from trainers.run_directory import RunDirectory, Running


def find(folder: str) -> Running:
    """The job that is running with this run directory.

    Raises:
        ValueError: there is none on this host.
    """
    directory = RunDirectory(Path(folder).absolute())
    if not directory.resolved.is_file():
        raise ValueError(f"--join: got {folder}, expected the run directory of a job that is running")
    running = directory.running()
    if running is None:
        ended = "has ended" if directory.summary.is_file() else "is not running on this host"
        raise ValueError(
            f"--join: got {folder}, whose job {ended}; start it again with gosgd train CONFIG --resume {folder}"
        )
    return running


class Joining(Place):
    """The place of a launcher that adds workers to a job.

    Args:
        plan: of the job.
        job: where its workers meet.
        workers: how many to add.
    """

    def __init__(self, plan: Plan, job: JobDirectory, workers: int) -> None:
        super().__init__(plan)
        self._found, self._workers = job, workers
        self.ranks = []

    def enter(self) -> JobDirectory:
        """Keep free seats.

        Raises:
            ValueError: there are not enough of them, or the job has ended meanwhile.
        """
        job = self._job = self._found
        self._plan.directory.look_on()
        kept: list[int] = []
        try:
            for seat in range(job.founders, job.seats):
                if len(kept) < self._workers and job.keep(seat):
                    kept.append(seat)
        except FileNotFoundError:
            raise ValueError(f"--join: got {self._plan.directory.path}, whose job has just ended") from None
        self.ranks = kept
        if len(kept) < self._workers:
            raise ValueError(
                f"--join: got --workers {self._workers}, expected at most {len(kept)}: of the job's {job.seats} seats"
                f" (run.max_workers) {len(job.taken()) - len(kept)} are taken"
            )
        return job

    def _go(self, job: JobDirectory, others: Sequence[int]) -> None:
        job.let_go()


def plan_to_join(folder: str, workers: int, detached: bool) -> tuple[Plan, Joining]:
    """What it takes to add workers to the job of a run directory; paths mean what they meant where the job was started.

    Raises:
        ValueError: there is no such job, its method's workers cannot be joined, or shared memory is too small.
    """
    if workers < 1:
        raise ValueError(f"got --workers {workers}, expected 1 or more")
    running, path = find(folder), Path(folder).absolute()
    if running.folder.is_dir():
        os.chdir(running.folder)
    loaded = read(str(RunDirectory(path).resolved), [])
    there = len(running.job.taken()) + workers
    plan = make_plan(loaded, str(path), workers=workers, detached=detached, here=there)
    method = loaded.config.exchange.method
    if not plan.method.rejoins:
        together = "step together" if plan.method.collective else "do not exchange while they train"
        raise ValueError(f"--join: got a job with exchange.method {method}, whose workers {together}; expected gosgd")
    if plan.serving:
        raise ValueError(
            f"--join: got a job with exchange.method {method}, whose central variable ends with the launcher that"
            " started it; expected gosgd"
        )
    plan = dataclasses.replace(plan, resume=False, seats=running.job.seats)
    return plan, Joining(plan, running.job, workers)
