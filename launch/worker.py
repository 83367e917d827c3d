"""What the process of one worker does. Imports launch's lower modules, trainers and gossip.

Under `gosgd train` the launcher has prepared the run directory, and the configuration is the directory's own
`config.resolved.yaml`. Under torchrun rank 0 does what the launcher would, while the others wait for its verdict.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import ConfigError, load
from configs.files import write_atomically
from gossip import layout
from gossip.job import Job
from gossip.leaving import JobOverError
from gossip.methods.base import wait_until
from gossip.open_files import TooManyFilesError
from gossip.transports.view import View
from launch.across import consider, propose
from launch.arguments import NOT_RESUMED
from launch.errors import DONE, FAILED, MISTAKE, paths_are_given, say
from launch.plan import Plan, make_plan
from launch.process import heed_signals
from launch.progress import Progress, table
from launch.settings import read
from trainers.run_directory import RunDirectory
from trainers.schema import Run
from trainers.worker import Worker

_VERDICT = "verdict.json"
_PATIENCE_S = 10.0


def work(config: str, overrides: Sequence[str], resume: str) -> int:
    """Find this worker's place and train. Returns the exit code; failures other than the user's mistakes are raised."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        with paths_are_given():
            job = Job.from_environment()
    except (ValueError, TimeoutError) as error:
        say(error)
        return MISTAKE
    try:
        if job.supervised:
            run = load(config, overrides, Run).config
            return _train(run, RunDirectory(Path(config).parent), job, resume != NOT_RESUMED)[0]
        if job.rank:
            return _follow(job, config, overrides)
        return _lead(job, config, overrides, resume)
    except BaseException:
        job.abort()
        raise
    finally:
        if not job.supervised:
            job.directory.let_go()


def _train(run: Run, directory: RunDirectory, job: Job, resume: bool) -> tuple[int, bool]:
    """Be a worker. Returns the exit code, and whether training came to its end."""
    worker: Worker | None = None
    whole = True
    try:
        worker = Worker(run, directory, job, resume)
        whole = worker.work()
    except JobOverError as error:
        logging.getLogger("gosgd").info("%s", error)
    except (ValueError, TooManyFilesError) as error:
        if worker is not None and worker.exchange.transport.words[layout.DONE]:
            raise  # it has trained: what was asked for is in order
        if job.supervised:
            traceback.print_exc()
        if _first(job, "said"):
            say(error)
        job.abort()
        return MISTAKE, False
    return DONE, whole


def _lead(job: Job, config: str, overrides: Sequence[str], resume: str) -> int:
    """Rank 0 under torchrun: check, prepare, train, and print the table when the last worker has written it."""
    if resume == NOT_RESUMED and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        resume = "auto"  # torchrun restarts all workers together
    try:
        with paths_are_given():
            plan = make_plan(read(config, overrides, job.workers), resume, here=len(job.here))
            plan.directory.prepare(plan.loaded, plan.workers)
        if job.hosts is not None and (objections := propose(job.hosts, plan)):
            raise ConfigError(objections[0])
    except ValueError as error:
        say(error)
        if job.hosts is not None:
            propose(job.hosts, None)
        _tell(job, {"refused": True})
        # torchrun ends everybody as soon as one ends: let the others end by themselves.
        heard = [job.directory.path / f"refused-{rank}" for rank in job.here if rank]
        wait_until(lambda: all(path.exists() for path in heard), _PATIENCE_S)
        return MISTAKE
    view = View(job.directory)
    _tell(job, {"directory": str(plan.directory.path.absolute()), "resume": plan.resume})
    job = dataclasses.replace(job, server=("-m", "launch.server", str(plan.directory.path.absolute())))
    with Progress(plan, job.directory).in_background():
        code, whole = _train(plan.run, plan.directory, job, plan.resume)
        summary = _last_word(plan, job, view) if code == DONE and whole else None
    if summary is not None and not summary["interrupted"]:
        print(table(summary, plan.directory.path))
    return code


def _follow(job: Job, config: str, overrides: Sequence[str]) -> int:
    """The other ranks under torchrun."""
    verdict = job.directory.path / _VERDICT
    if job.hosts is not None and job.rank == min(job.here):
        told = consider(job.hosts, job.rank, config, overrides, job.workers)
        if because := told.get("because"):
            say(because)
        _tell(job, told)
    while not verdict.exists():
        if not job.directory.path.exists():
            return FAILED  # rank 0 failed, and has said so
        time.sleep(0.01)
    told = json.loads(verdict.read_text())
    if "refused" in told:
        (job.directory.path / f"refused-{job.rank}").touch(mode=0o600)
        return MISTAKE
    directory = RunDirectory(told["directory"])
    return _train(load(directory.resolved, [], Run).config, directory, job, told["resume"])[0]


def _tell(job: Job, verdict: dict[str, Any]) -> None:
    write_atomically(job.directory.path / _VERDICT, lambda draft: draft.write_text(json.dumps(verdict)))


def _last_word(plan: Plan, job: Job, view: View) -> dict[str, Any] | None:
    """The final figures, once whoever leaves last has written them; None if nobody will."""
    heed_signals()
    while not all(view.dead(member) for member in view.members() if member.seat != job.rank):
        time.sleep(0.05)
    return plan.directory.read_summary()


def _first(job: Job, name: str) -> bool:
    """Whether no other worker of this job has come here before; where a launcher reads the logs, all may."""
    if job.supervised:
        return True
    try:
        (job.directory.path / name).touch(mode=0o600, exist_ok=False)
    except (FileExistsError, FileNotFoundError):
        return False
    return True
