"""The processes of one job: started, watched, killed where the task says so, ended. Imports gossip, peers.worker."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import Self

from benchmarks.peers.sheets import DATA, MODEL, Sheets, Steps, Task
from benchmarks.peers.worker import EXIT, RESULT, STARTED
from gossip.directory import JobDirectory
from gossip.job import JOB

ROOT = Path(__file__).parents[2]
_POLL_S = 0.002
_KILLED_S = 5.0
_START_S = 120.0
FINISHED, HANGS, FAILED = "goes on", "hangs", "ends with an error"


@dataclass
class Ran:
    """What came of a job.

    Attributes:
        outcome: `goes on` if worker 0 made all its steps.
        said: the last line of a worker that failed.
        killed: when the last worker was killed, seconds of the monotonic clock.
        ended: when the job was found to be over or stuck, the same clock.
        steps: what each worker noted.
        results: of each worker that came to its end.
    """

    outcome: str = FINISHED
    said: str = ""
    killed: float | None = None
    ended: float = 0.0
    steps: list[Steps] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


class Nursery:
    """A process that has a library imported and forks workers, which are up at once.

    Args:
        python: of the library's environment.
        module: the engine's.
    """

    def __init__(self, python: Path, module: str) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TORCH"))}
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.peers.worker", module],
            cwd=ROOT,
            env={**environment, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},  # one host: no name to resolve
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def fork(self, folder: Path, name: str, environment: dict[str, str]) -> int:
        """Start a process of a job; returns its number.

        Raises:
            ChildProcessError: nothing can be started.
        """
        order = json.dumps({"folder": str(folder), "name": name, "environment": environment}) + "\n"
        assert self._process.stdin is not None and self._process.stdout is not None
        told = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(order.encode())
            self._process.stdin.flush()
            if select.select([self._process.stdout], [], [], _START_S)[0]:
                told = self._process.stdout.readline()
        if not told:
            raise ChildProcessError(f"the library was not imported within {_START_S:.0f} s, or its process has ended")
        return int(told)


def run(
    nursery: Nursery, task: Task, model: nn.Module, images: tuple[Any, Any], patience_s: float, limit_s: float
) -> Ran:
    """Run a job to its end.

    Args:
        nursery: of the task's engine.
        patience_s: a job none of whose workers makes a step for so long hangs and is stopped.
        limit_s: any job is stopped after so long.
    """
    with tempfile.TemporaryDirectory(prefix="peers-") as name, _started(nursery, task, Path(name)) as begin:
        folder = Path(name)
        torch.save(model, folder / MODEL)
        np.savez(folder / DATA, x=images[0], y=images[1])
        task.write(folder)
        try:
            processes = begin()
        except ChildProcessError as error:
            return Ran(FAILED, str(error))
        ran = _watch(processes, Sheets(folder, task), task, folder, patience_s, limit_s)
        ran.steps = [Sheets(folder, task).steps(rank) for rank in range(task.workers)]
        told = (folder / RESULT.format(rank=rank) for rank in range(task.workers))
        ran.results = [json.loads(path.read_text()) for path in told if path.is_file()]
        return ran


@contextlib.contextmanager
def _started(nursery: Nursery, task: Task, folder: Path) -> Iterator[Callable[[], dict[str, int]]]:
    """A function that starts the processes and tells their numbers; afterwards nothing of them is left."""
    directory = JobDirectory.create(task.workers, task.workers) if task.module == "ours" else None
    processes: dict[str, int] = {}

    def begin() -> dict[str, int]:
        for name in [*map(str, range(task.workers)), *(["server"] if task.served else [])]:
            workers = str(task.workers)
            environment = {"RANK": name, "LOCAL_RANK": name, "WORLD_SIZE": workers, "LOCAL_WORLD_SIZE": workers}
            if directory is not None:
                environment[JOB] = str(directory.path)
            processes[name] = nursery.fork(folder, name, environment)
        return dict(processes)

    try:
        yield begin
    finally:
        for name, process in processes.items():
            _kill(process, folder / f"{EXIT}{name}")
        if directory is not None:
            directory.remove()


def _kill(process: int, gone: Path) -> None:
    """Kill a worker with all its helpers, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    deadline = time.monotonic() + _KILLED_S
    while not gone.exists() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _watch(
    processes: dict[str, int],
    sheets: Sheets,
    task: Task,
    folder: Path,
    patience_s: float,
    limit_s: float,
) -> Ran:
    ran, last = Ran(), task.workers - 1
    began = moved = time.monotonic()
    seen = 0
    while True:
        time.sleep(_POLL_S)
        now = ran.ended = time.monotonic()
        if task.killed_at and ran.killed is None and sheets.made(last) >= task.killed_at:
            ran.killed = moved = now
            _kill(processes.pop(str(last)), folder / f"{EXIT}{last}")
        codes = {name: _code(folder / f"{EXIT}{name}") for name in processes}
        # One that fails after all its work, while it leaves, has done it.
        done = [name for name in codes if (folder / RESULT.format(rank=name)).is_file()]
        failed = next((name for name, code in codes.items() if code and name not in done), None)
        if failed is not None:
            ran.outcome, ran.said = FAILED, _last_line(folder / f"{failed}.log")
            return ran
        if len(done) == len(processes) - task.served and all(codes[name] is not None for name in done):
            return ran
        made = sum(sheets.made(int(name)) for name in codes if name != "server")
        if made != seen or not sheets.reached(STARTED):
            seen, moved = made, now
        training = sheets.made(0) < task.steps and sheets.reached(STARTED)
        if training and now - moved > patience_s:
            ran.outcome, ran.said = HANGS, f"no step for {patience_s:.0f} s, then stopped"
            return ran
        if now - began > limit_s or (now - began > _START_S and not sheets.reached(STARTED)):
            ran.outcome = HANGS
            ran.said = f"stopped after {now - began:.0f} s: {_last_line(folder / '0.log')}"
            return ran


def _code(path: Path) -> int | None:
    """A process's exit code, if it has ended."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    return int(text) if text else None


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line]
    return ([*lines, *told] or ["it said nothing"])[-1][:300]
