"""One worker of a supervised job, or its server: its present process, how often it was started, its logs.

Imports launch.plan, launch.logs and torch's elastic processes. Every process has a context of its own, because a
context ends all its processes when one of them fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from torch.distributed.elastic.multiprocessing import SubprocessContext, start_processes

from gossip.directory import JobDirectory
from gossip.job import JOB
from launch.logs import WorkerLogs
from launch.plan import Plan
from launch.process import DETACHED, SUPERVISOR

_KILLED_S = 5.0


class Seat:
    """One worker, whichever process it is at the moment.

    Args:
        rank: of the worker; None for the server.
        plan: of the job.
        job: where the workers meet.

    Attributes:
        name: what messages call it.
        attempt: how often it was restarted; -1 before the first start.
        due: when it is to be started, on the monotonic clock.
        done: whether it is not to be started again.
        began: when its present or last process was started, on the clock of `time.time`.
    """

    def __init__(self, rank: int | None, plan: Plan, job: JobDirectory) -> None:
        self.rank, self._plan, self._job = rank, plan, job
        self.name = "the server" if rank is None else f"worker {rank}"
        self.attempt = -1
        self.due = 0.0
        self.done = False
        self.began = 0.0
        self.logs: WorkerLogs | None = None
        self._context: SubprocessContext | None = None

    @property
    def running(self) -> bool:
        """Whether it has a process, as far as the last `poll` knew."""
        return self._context is not None

    @property
    def pid(self) -> int | None:
        """Of its process, as far as the last `poll` knew."""
        return None if self._context is None else self._context.pids()[0]

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
        } | ({DETACHED: "1"} if self._plan.detached else {})
        if self.rank is None:
            name, command = "server", ["-m", "launch.server", str(directory.path), str(self._job.path)]
        else:
            name, command = f"worker-{self.rank}", ["-m", "launch.train", str(directory.resolved)]
            command += ["--resume", "auto"] if self._plan.resume else []
            environment |= {"RANK": str(self.rank), "LOCAL_RANK": str(self.rank)}
            environment |= {"WORLD_SIZE": str(self._plan.workers)}
        self.attempt += 1
        self.began = time.time()
        self.logs = WorkerLogs(directory.logs, name)
        context = start_processes(
            name=name,
            entrypoint=sys.executable,
            args={0: tuple(command)},
            envs={0: environment},
            logs_specs=self.logs,
        )
        assert isinstance(context, SubprocessContext)
        self._context = context
        with contextlib.suppress(OSError):  # a full disk ends no job
            directory.pid(self.rank).write_text(f"{context.pids()[0]}\n")

    def poll(self) -> int | None:
        """The exit code once the process has ended, negative for a signal; loader processes it left are ended too."""
        if self._context is None:
            return None
        pid = self._context.pids()[0]
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Closes the log files, and ends the group before its leader is reaped and its id can be anybody else's.
            self._context.subprocess_handlers[0].close(signal.SIGKILL)
        result = self._context.wait(timeout=0)
        assert result is not None
        self._context = None
        self._plan.directory.pid(self.rank).unlink(missing_ok=True)
        return result.failures[0].exitcode if result.is_failed() else 0

    def terminate(self) -> None:
        """Ask it to save and leave. Its loader processes are not asked: it needs them to end its step."""
        if self._context is not None:
            os.kill(self._context.pids()[0], signal.SIGTERM)
            os.kill(self._context.pids()[0], signal.SIGCONT)  # one that was stopped would not hear of it

    def kill(self) -> None:
        """End it and its loader processes at once."""
        if self._context is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._context.pids()[0], signal.SIGKILL)
        deadline = time.monotonic() + _KILLED_S
        while self.poll() is None and self.running and time.monotonic() < deadline:
            time.sleep(0.01)

    def output(self) -> list[str]:
        """What its present or last process wrote to stderr."""
        if self.logs is None or not self.logs.stderr.exists():
            return []
        return [line for line in self.logs.stderr.read_text(errors="replace").splitlines() if line.strip()]
