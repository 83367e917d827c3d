"""The entry of one worker: `python -m launch.train CONFIG [key=value ...]` under torchrun, or started by `gosgd train`.

Imports trainers and everything below. Under torchrun the worker of rank 0 looks after the run directory; under
`gosgd train` the launcher has, and CONFIG is the run directory's own `config.resolved.yaml`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from configs import load
from gossip.job import JOB, Job
from launch.progress import Progress, table
from launch.settings import NOT_RESUMED, RESUME, SUPERVISOR, run_folder
from trainers.run_directory import RunDirectory
from trainers.schema import Run
from trainers.worker import train

_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Be one worker. Returns the exit code: 0 done, 2 the user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m launch.train", description="One worker of a job, under torchrun.")
    parser.add_argument("config", help="a YAML file or the name of a recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--resume", default=NOT_RESUMED, metavar="auto|never|DIR", help=RESUME)
    given = parser.parse_args(arguments)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # at the end: a folder of the user's cannot hide one of our packages
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    _end_with_the_supervisor()
    try:
        work(given.config, given.overrides, given.resume)
    except ValueError as error:
        if os.environ.get("RANK", "0") == "0" or JOB in os.environ:
            print(f"gosgd: {error}", file=sys.stderr)
        logging.getLogger("gosgd").debug("refused", exc_info=True)
        return 2
    return 0


def work(config: str, overrides: Sequence[str], resume: str) -> None:
    """Load the configuration, find this worker's place, and train.

    Raises:
        ValueError: the user's mistake.
    """
    loaded = load(config, overrides, Run)
    run: Run = loaded.config
    folder = run_folder(run, resume)
    directory = RunDirectory(folder)
    resumed = resume != NOT_RESUMED
    supervised = JOB in os.environ
    if not supervised and os.environ.get("RANK", "0") == "0":
        directory.check(resumed)
    job = Job.from_environment()
    if supervised:
        train(run, RunDirectory(Path(config).parent), job, resumed)
        return
    if job.rank == 0:
        directory.prepare(loaded, job.workers)
        (job.directory.path / "prepared").touch()
    else:
        _wait_for(job.directory.path / "prepared")
    with _progress(run, directory, job) if job.rank == 0 else contextlib.nullcontext():
        train(run, directory, job, resumed)
    if job.rank == 0 and (summary := directory.read_summary(wait_s=10.0)):
        print(table(summary, directory.path))


def _progress(run: Run, directory: RunDirectory, job: Job) -> contextlib.AbstractContextManager[object]:
    return Progress(run, directory, job.directory, job.workers).in_background()


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline or not path.parent.exists():
            raise ValueError("rank 0 did not prepare the run directory, see its message")
        time.sleep(0.01)


def _end_with_the_supervisor() -> None:
    """Have the kernel send SIGTERM when the launcher dies, however it dies, so that no worker is left behind."""
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is None:
        return
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(supervisor):
        sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
