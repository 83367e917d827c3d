"""Where a run keeps what it writes. Imports configs.

config.yaml  config.resolved.yaml  env.json      what was asked for, and on what it ran
lock                                             held by the job that is running here
metrics.jsonl                                    evaluations of the consensus model, one JSON object a line
workers/K/metrics.jsonl                          what worker K measured, one JSON object a line
server/metrics.jsonl                             what the server measured, of methods that have one
tb/                                              a tensorboard view of both
checkpoints/worker-K/                            per worker: divergent workers are not replicas
logs/                                            what the workers printed, one folder an attempt
trace/                                           what the exchange did, with exchange.trace
final/model.safetensors  final/summary.json      the consensus model
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from configs.load import Loaded, dump


class RunDirectory:
    """Paths of one run.

    Args:
        path: of the directory.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.resolved = self.path / "config.resolved.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tb"
        self.checkpoints = self.path / "checkpoints"
        self.logs = self.path / "logs"
        self.traces = self.path / "trace"
        self.final = self.path / "final"
        self.summary = self.final / "summary.json"
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
            ValueError: another job is running in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._hold()
        shutil.rmtree(self.traces, ignore_errors=True)  # of an earlier run that is resumed: a trace is of one job
        (self.path / "config.yaml").write_text(loaded.text)
        self.resolved.write_text(dump(loaded.config))
        (self.path / "env.json").write_text(json.dumps(environment() | {"workers": workers}, indent=2) + "\n")
        self._earlier = self._stamp()

    def _hold(self) -> None:
        """Keep other jobs out until `let_go`, or until this process ends, whichever way."""
        self._lock = os.open(self.path / "lock", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.let_go()
            raise ValueError(
                f"run.dir: got {self.path}, in which another job is running; expected a directory of its own"
            ) from None

    def let_go(self) -> None:
        """Let another job in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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

    def server(self) -> Path:
        """Folder of the server's metrics, made if need be."""
        path = self.path / "server"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def worker(self, rank: int) -> Path:
        """Folder of worker `rank`'s own metrics, made if need be."""
        path = self.path / "workers" / str(rank)
        path.mkdir(parents=True, exist_ok=True)
        return path


def environment() -> dict[str, Any]:
    """Versions and machine, for a run that is to be reproduced."""
    packages = {}
    for package in ("gosgd", "torch", "numpy", "pydantic", "safetensors"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": devices,
        "packages": packages,
    }
