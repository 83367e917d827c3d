"""One worker of a supervised job, or its server: its present process, how often it was started, its logs.

Imports launch.plan, launch.logs and launch.nursery.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from configs.files import write_atomically
from gossip.directory import JobDirectory
from gossip.job import JOB
from launch.logs import Logs
from launch.nursery import Nursery
from launch.plan import Plan
from launch.process import DETACHED, GRACE, SUPERVISOR
from launch.start import Start

_KILLED_S = 5.0


class Seat:
    """One worker, whichever process it is at the moment.

    Args:
        rank: of the worker; None for the server.
        plan: of the job.
        job: where the workers meet.
        nursery: starts its processes.

    Attributes:
        name: what messages call it.
        attempt: how often it was restarted; -1 before the first start.
        due: when it is to be started, on the monotonic clock.
        done: whether it is not to be started again.
        began: when its present or last process was started, on the clock of `time.time`.
        pid: of its process, as far as the last `poll` knew.
    """

    def __init__(self, rank: int | None, plan: Plan, job: JobDirectory, nursery: Nursery) -> None:
        self.rank, self._plan, self._job, self._nursery = rank, plan, job, nursery
        self.name = "the server" if rank is None else f"worker {rank}"
        self.attempt = -1
        self.due = 0.0
        self.done = False
        self.began = 0.0
        self.logs: Logs | None = None
        self.pid: int | None = None

    @property
    def running(self) -> bool:
        """Whether it has a process, as far as the last `poll` knew."""
        return self.pid is not None

    def start(self) -> None:
        """Start its process, in a session of its own, with its output in log files of this attempt."""
        threads = str(self._plan.run.train.threads)
        directory = self._plan.directory
        environment = {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
            "MKL_NUM_THREADS": os.environ.get("MKL_NUM_THREADS", threads),
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            JOB: str(self._job.path),
            SUPERVISOR: str(os.getpid()),
            GRACE: str(self._plan.run.run.grace_s),
        } | ({DETACHED: "1"} if self._plan.detached else {})
        if self.rank is None:
            name, module, command = "server", "launch.server", [str(directory.path), str(self._job.path)]
        else:
            name, module, command = f"worker-{self.rank}", "launch.train", [str(directory.resolved)]
            command += ["--resume", "auto"] if self._plan.resume else []
            environment |= {"RANK": str(self.rank), "LOCAL_RANK": str(self.rank)}
            environment |= {"WORLD_SIZE": str(self._plan.workers)}
        self.attempt += 1
        self.began = time.time()
        self.logs = Logs(directory.logs, name)
        start = Start(f"gosgd-{name}", module, command, environment, self.logs.stdout, self.logs.stderr)
        self.pid = self._nursery.start(start)
        with contextlib.suppress(OSError):  # a full disk ends no job
            # A script that waits for the file finds it whole.
            write_atomically(directory.pid(self.rank), lambda draft: draft.write_text(f"{self.pid}\n"), flush=False)

    def poll(self) -> int | None:
        """The exit code once the process has ended, negative for a signal; loader processes it left are ended too."""
        if self.pid is None or os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # before its leader is reaped, and its id can be anybody else's
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = None
        with contextlib.suppress(OSError):
            self._plan.directory.pid(self.rank).unlink(missing_ok=True)
        return code

    def terminate(self) -> None:
        """Ask it to save and leave. Its loader processes are not asked: it needs them to end its step."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGTERM)
            os.kill(self.pid, signal.SIGCONT)  # one that was stopped would not hear of it

    def kill(self) -> None:
        """End it and its loader processes at once."""
        if self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILLED_S
        while self.poll() is None and self.running and time.monotonic() < deadline:
            time.sleep(0.01)

    def output(self) -> list[str]:
        """What its present or last process wrote to stderr."""
        if self.logs is None or not self.logs.stderr.exists():
            return []
        return [line for line in self.logs.stderr.read_text(errors="replace").splitlines() if line.strip()]
