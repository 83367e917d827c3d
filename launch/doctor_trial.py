"""Has two processes exchange weights by each of the ways there are, and tells what came of it.

Imports gossip.directory. The processes run launch.doctor_probe; one that hangs is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip.directory import JobDirectory
from gossip.job import JOB
from launch.process import SUPERVISOR

PARTS = {
    "gossip": "through shared memory",
    "collective": "torch.distributed",
    "nixl": "between hosts",
}
WORKERS = 2
_GRACE_S = 2.0
_ADVICE = {
    "gossip": "see shared memory above; is anything killing processes or forbidding locks there?",
    "collective": "GLOO_SOCKET_IFNAME=lo (NCCL_SOCKET_IFNAME=lo) rules a wrong network out",
    "nixl": "gossip between hosts will not work; UCX_LOG_LEVEL=info UCX_TLS=tcp show more",
}


@dataclass(frozen=True)
class Told:
    """What became of one way to exchange."""

    said: str
    broken: bool = False
    advice: str = ""


@dataclass(frozen=True)
class Trial:
    """What became of each way."""

    told: dict[str, Told]


def attempt(timeout_s: float) -> Trial:
    """Start two processes and wait for them.

    Args:
        timeout_s: after which they are killed.
    """
    jobs: list[JobDirectory] = []
    try:
        jobs += [JobDirectory.create(WORKERS, WORKERS) for _ in range(2)]  # two exchanges, and seats are taken once
        with tempfile.TemporaryDirectory(prefix="gosgd-doctor-") as folder:
            codes, seconds = _run(jobs, Path(folder), timeout_s)
            return Trial({part: _judge(part, Path(folder), codes, seconds) for part in PARTS})
    except (OSError, ValueError) as error:
        return Trial({"gossip": Told(str(error), True, _ADVICE["gossip"])})
    finally:
        for job in jobs:
            job.remove()


def _run(jobs: Sequence[JobDirectory], folder: Path, timeout_s: float) -> tuple[list[int | None], float]:
    """The exit codes, None for a process that had to be killed, and the seconds it took."""
    began = time.monotonic()
    processes = []
    try:
        for rank in range(WORKERS):
            with (folder / f"{rank}.log").open("w") as log:
                command = [sys.executable, "-m", "launch.doctor_probe", str(folder), str(jobs[1].path)]
                environment = {
                    JOB: str(jobs[0].path),
                    SUPERVISOR: str(os.getpid()),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(WORKERS),
                    "OMP_NUM_THREADS": "1",
                    "PYTHONSAFEPATH": "1",
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                }
                processes.append(
                    subprocess.Popen(
                        command,
                        env=os.environ | environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        failed = False
        while any(process.poll() is None for process in processes) and time.monotonic() - began < timeout_s:
            if not failed and any(process.poll() for process in processes):  # the other one has nobody left
                failed, timeout_s = True, min(timeout_s, time.monotonic() - began + _GRACE_S)
            time.sleep(0.02)
        return [process.poll() for process in processes], time.monotonic() - began
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _judge(part: str, folder: Path, codes: Sequence[int | None], seconds: float) -> Told:
    found = [_read(folder / f"{rank}.{part}") for rank in range(WORKERS)]
    what = PARTS[part]
    done = [one for one in found if one is not None]
    if len(done) == WORKERS:
        wrong = next((one["wrong"] for one in done if one.get("wrong")), None)
        if wrong is not None:
            return Told(f"{what}: {wrong}", True, _ADVICE[part])
        return Told(f"{what}: {done[0]['said']}")
    if not (folder / f"0.{part}.begun").exists() and not (folder / f"1.{part}.begun").exists():
        return Told(f"{what}: not tried, because what came before failed")
    rank = next((rank for rank in range(WORKERS) if codes[rank]), 0)
    lines = (folder / f"{rank}.log").read_text(errors="replace").strip().splitlines()
    if None in codes and not any(codes):
        how = f"not done within {seconds:.0f} s"
    else:
        code = codes[rank] or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    return Told(f"{what}: {how}" + (f": {lines[-1][:300]}" if lines else ""), True, _ADVICE[part])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return None
