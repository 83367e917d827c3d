"""Workers of a run as `gosgd train` would start them, each in a process of its own that a test can send signals to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from support.remote import Handle, answers, in_process_of_its_own, reaped

from configs import load
from gossip import layout
from gossip.directory import JobDirectory
from gossip.job import Job
from gossip.layout import Member
from gossip.transports.view import View
from trainers.local import LocalTrainer
from trainers.run_directory import RunDirectory
from trainers.schema import Run
from trainers.worker import Worker


class Trainee:
    """One worker of the run in a directory.

    Args:
        path: of the run directory.
        resume: whether to go on from checkpoints.
        pause_s: sleep in every local step.
    """

    def __init__(self, path: str, resume: bool, pause_s: float) -> None:
        directory = RunDirectory(path)
        run = load(directory.resolved, [], Run).config
        step = LocalTrainer.step

        def slowly(self: LocalTrainer, number: int) -> None:
            time.sleep(pause_s)
            step(self, number)

        LocalTrainer.step = slowly  # type: ignore[method-assign]
        self.worker = Worker(run, directory, Job.from_environment(), resume)

    def work(self) -> tuple[int, bytes]:
        """Train; the step and the weights at the end."""
        self.worker.work()
        return self.worker.exchange.steps, self.worker.exchange.flat.vector.cpu().numpy().tobytes()


def train(
    source: Path,
    folder: Path,
    workers: int,
    *overrides: str,
    resume: bool = False,
    pause_s: float = 0.0,
    meanwhile: Callable[[list[Handle], Callable[[int], int]], None] = lambda handles, steps: None,
) -> list[Any]:
    """What `work` gave on each worker of a job.

    Args:
        meanwhile: called with the workers and a function that says how many steps one of them has made.
    """
    loaded = load(source, [*overrides, f"run.workers={workers}"], Run)
    directory = RunDirectory(folder)
    directory.check(resume)
    directory.prepare(loaded, workers)
    job = JobDirectory.create(workers, workers)
    try:
        with reaped([]) as handles:
            for rank in range(workers):
                environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
                make = partial(Trainee, str(folder), resume, pause_s)
                handles.append(in_process_of_its_own(make, GOSGD_JOB=str(job.path), **environment))
            answers(handles)
            for handle in handles:
                handle.begin("work")
            view = View(job)
            meanwhile(handles, lambda rank: int(view.open(Member(rank, 0))[layout.DONE]))
            return answers(handles)
    finally:
        job.remove()
        directory.let_go()


def last_steps(folder: Path, workers: Sequence[int]) -> list[int]:
    """The step of each worker's newest checkpoint."""
    names = [sorted((folder / "checkpoints" / f"worker-{worker}").iterdir())[-1].stem for worker in workers]
    return [int(name.removeprefix("step-")) for name in names]
