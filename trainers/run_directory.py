"""Where a run keeps what it writes. Imports configs and gossip.directory. What is made here is its user's alone.

config.yaml  config.resolved.yaml  env.json      what was asked for, and on what it ran
lock  job.json                                   held by the job that is running here, and where its workers meet
metrics.jsonl                                    evaluations of the consensus model, one JSON object a line
workers/K/metrics.jsonl                          what worker K measured, one JSON object a line
server/metrics.jsonl                             what the server measured, of methods that have one
workers/K/pid  server/pid                        process ids, while they run
tb/                                              a tensorboard view of both
checkpoints/worker-K/                            per worker: divergent workers are not replicas
checkpoints/server/                              the central variable, of methods that have one
logs/                                            what the workers printed, one folder an attempt
trace/                                           what the exchange did, with exchange.trace
final/model.safetensors  final/summary.json      the consensus model
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from configs.files import private_folder, write_atomically
from configs.load import Loaded, dump
from gossip.directory import JobDirectory, in_use

_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EEXIST)
"""What the system says where a disk is full, or where no directory can be."""
_LAST_WORDS_S = 8.0
"""How long a job whose launcher was killed may take to save and leave."""


class Running(NamedTuple):
    """A job that is running: where its workers meet, and the folder it was started in."""

    job: JobDirectory
    folder: Path


class RunDirectory:
    """Paths of one run.

    Args:
        path: of the directory.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.resolved = self.path / "config.resolved.yaml"
        self._environment = self.path / "env.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tb"
        self.checkpoints = self.path / "checkpoints"
        self.snapshots = self.checkpoints / "server"
        self.logs = self.path / "logs"
        self.traces = self.path / "trace"
        self.final = self.path / "final"
        self.summary = self.final / "summary.json"
        self._job = self.path / "job.json"
        self._earlier: tuple[int, int] | None = None
        self._lock: int | None = None

    def check(self, resume: bool) -> None:
        """Refuse to write over another run.

        Raises:
            ValueError: the directory holds something and `resume` is not wanted, or it cannot be made or written to.
        """
        nearest = next(path for path in [self.path, *self.path.absolute().parents] if os.access(path, os.F_OK))
        if not nearest.is_dir():
            raise ValueError(f"run.dir: got {nearest}, which is a file; expected a directory")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise ValueError(
                f"run.dir: got {self.path}, where {nearest} is not writable; expected a directory of yours"
            )
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                f"run.dir: got {self.path}, which is not empty; expected a new directory (run.dir=...) or --resume auto"
            )

    def prepare(self, loaded: Loaded[Any], workers: int) -> None:
        """Make the directory and write down what was asked for and the environment.

        Raises:
            ValueError: another job is running in it, or the disk is full; then a directory made just now is removed.
        """
        made = not self.path.exists()
        try:
            with self._writing():
                self._write_down(loaded, workers)
        except BaseException:
            if made and self._lock is not None:  # else it is another job's
                shutil.rmtree(self.path, ignore_errors=True)
            self.let_go()
            raise

    def room(self) -> int | None:
        """Bytes that are free on the directory's disk; None if there is no such directory any more."""
        try:
            state = os.statvfs(self.path)
        except OSError:
            return None
        return state.f_bavail * state.f_frsize

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            raise ValueError(
                f"run.dir: got {self.path}, where nothing can be written ({error.strerror}); expected a directory with"
                " room for files"
            ) from None

    def _write_down(self, loaded: Loaded[Any], workers: int) -> None:
        private_folder(self.path)
        self._hold()
        self._outwait()
        shutil.rmtree(self.traces, ignore_errors=True)  # of an earlier run that is resumed: a trace is of one job
        for folder in (self.checkpoints, self.logs, self.tensorboard, self.traces, self.final, self.path / "workers"):
            private_folder(folder)  # here, so that whatever libraries write into it is hidden, too
        job = {"workers": workers, "job": self.job() + 1}
        for name, text in (
            ("config.yaml", loaded.text),
            (self.resolved.name, dump(loaded.config)),
            (self._environment.name, json.dumps(environment() | job, indent=2) + "\n"),
        ):
            write_atomically(self.path / name, lambda draft, text=text: draft.write_text(text))  # type: ignore[misc]
        self._earlier = self._stamp()

    def job(self) -> int:
        """Which job in this directory the present one is, counted from 0; -1 before the first."""
        try:
            number = json.loads(self._environment.read_text())["job"]
        except (OSError, ValueError, KeyError, TypeError):
            return -1
        return number if isinstance(number, int) else -1

    def _hold(self) -> None:
        """Keep other jobs out until `let_go`, or until this process ends, whichever way."""
        self._lock = os.open(self.path / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.let_go()
            raise ValueError(
                f"run.dir: got {self.path}, in which another job is running; expected a directory of its own"
            ) from None
        except OSError:  # a network's file system that knows no locks keeps nobody out
            pass

    def _outwait(self) -> None:
        """Let the workers of a launcher that was killed save and leave; refuse those that go on."""
        deadline = time.monotonic() + _LAST_WORDS_S
        while (running := self.running()) is not None:
            if time.monotonic() > deadline:
                self.let_go()
                workers = ", ".join(map(str, sorted(running.job.taken())))
                raise ValueError(
                    f"run.dir: got {self.path}, which an earlier job has not left yet (workers: {workers}); wait for"
                    " its end, or stop its workers (their process ids are in workers/K/pid)"
                )
            time.sleep(0.05)

    def let_go(self) -> None:
        """Let another job in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def announce(self, job: JobDirectory) -> None:
        """Write down where the workers meet, for those who join later; only this user can read it.

        Raises:
            ValueError: the disk is full.
        """
        about = json.dumps({"job": str(job.path), "folder": str(Path.cwd())})
        with self._writing():
            write_atomically(self._job, lambda draft: draft.write_text(about + "\n"))

    def forget(self, job: JobDirectory) -> None:
        """Remove what `announce` wrote, once the job's directory is gone."""
        if self._announced() == job.path and not job.path.exists():
            self._job.unlink(missing_ok=True)

    def running(self) -> Running | None:
        """The job that is running here on this host; None where there is none, or only what a killed one left."""
        path = self._announced()
        try:
            if path is None or path.stat().st_uid != os.getuid() or not in_use(path):
                return None
            return Running(JobDirectory.open(path), Path(json.loads(self._job.read_text())["folder"]))
        except (OSError, ValueError, KeyError):
            return None

    def _announced(self) -> Path | None:
        try:
            if self._job.stat().st_uid != os.getuid():
                return None
            return Path(json.loads(self._job.read_text())["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def look_on(self) -> None:
        """Take note of what is here, for `read_summary` of a job that another launcher has prepared."""
        self._earlier = self._stamp()

    def read_summary(self) -> dict[str, Any] | None:
        """The final figures, or None before the run that this object prepared has written its own."""
        if self._stamp() in (None, self._earlier):
            return None
        return json.loads(self.summary.read_text())  # type: ignore[no-any-return]

    def _stamp(self) -> tuple[int, int] | None:
        """What tells the present `summary.json` from one that another run wrote."""
        try:
            state = self.summary.stat()
        except FileNotFoundError:
            return None
        return state.st_ino, state.st_mtime_ns

    def pid(self, rank: int | None) -> Path:
        """The file with the process id of a worker, or of the server (None), while it runs."""
        return (self.server() if rank is None else self.worker(rank)) / "pid"

    def server(self) -> Path:
        """Folder of the server's metrics, made if need be."""
        return private_folder(self.path / "server")

    def worker(self, rank: int) -> Path:
        """Folder of worker `rank`'s own metrics, made if need be."""
        return private_folder(self.path / "workers" / str(rank))


def environment() -> dict[str, Any]:
    """Versions and machine, for a run that is to be reproduced."""
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": devices,
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Versions of the libraries that a run depends on; torch's says what it was built for, as in 2.13.0+cpu."""
    found = {"torch": str(torch.__version__)}
    for package in ("gosgd", "numpy", "pydantic", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
