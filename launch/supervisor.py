"""Starts the workers of one host and looks after them. Imports launch.plan, launch.progress and torch's processes.

Each worker has a process context of its own, so that the one that fails is restarted alone; the workers of a collective
method can only go on together, so there one failure ends all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing import PContext, start_processes

from gossip import layout
from gossip.directory import JobDirectory
from gossip.job import JOB
from gossip.layout import State
from gossip.transports.shared_memory import View
from launch.logs import WorkerLogs
from launch.plan import Plan
from launch.progress import Progress, table
from launch.settings import SUPERVISOR

_POLL_S = 0.05
_INTERRUPT_S = 2.0
_BACK_OFF_S = 8.0
_LAST_LINES = 12


@dataclass
class Seat:
    """One worker: its present process, and how often it was started."""

    rank: int
    context: PContext | None = None
    logs: WorkerLogs | None = None
    attempt: int = -1
    due: float = 0.0
    done: bool = False


@dataclass
class Supervisor:
    """Runs a planned job to its end.

    Args:
        plan: of the job.
        resume: whether the workers go on from checkpoints.
    """

    plan: Plan
    resume: bool
    seats: list[Seat] = field(default_factory=list)
    interrupted: int = 0

    def run(self) -> int:
        """Start, watch, restart, tidy up. Returns the exit code: 0 done, 2 a mistake of the user's that only a worker
        could see, 1 any other failure, 128 + the signal's number after an interrupt."""
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        plan = self.plan
        job = JobDirectory.create(plan.seats, plan.workers)
        self._view = View(job)
        self._job = job
        try:
            plan.directory.prepare(plan.loaded, plan.workers)
            self.seats = [Seat(rank) for rank in range(plan.workers)]
            with Progress(plan.run, plan.directory, job, plan.workers, plan.steps) as self._progress:
                for seat in self.seats:
                    self._start(seat)
                code = self._watch()
        finally:
            self._stop_all(0.0)
            job.remove()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._report(code)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = number

    def _start(self, seat: Seat) -> None:
        plan, threads = self.plan, str(self.plan.run.train.threads)
        seat.attempt += 1
        seat.logs = WorkerLogs(plan.directory.logs, seat.rank)
        environment = {
            "RANK": str(seat.rank),
            "LOCAL_RANK": str(seat.rank),
            "WORLD_SIZE": str(plan.workers),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
            "MKL_NUM_THREADS": os.environ.get("MKL_NUM_THREADS", threads),
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            JOB: str(self._job.path),
            SUPERVISOR: str(os.getpid()),
        }
        arguments = ["-m", "launch.train", str(plan.directory.resolved), *(["--resume", "auto"] if self.resume else [])]
        seat.context = start_processes(
            name=f"worker-{seat.rank}",
            entrypoint=sys.executable,
            args={0: tuple(arguments)},
            envs={0: environment},
            logs_specs=seat.logs,
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # starting a context installs handlers that raise
            signal.signal(number, self._interrupt)
        if seat.attempt:
            self._event("restart", seat)

    def _watch(self) -> int:
        while not all(seat.done for seat in self.seats):
            if self.interrupted:
                self._stop_all(_INTERRUPT_S)
                return 128 + self.interrupted
            for seat in self.seats:
                if seat.context is None:
                    if not seat.done and time.monotonic() >= seat.due:
                        self._start(seat)
                    continue
                result = seat.context.wait(timeout=0)
                if result is None:
                    continue
                seat.context = None
                if not result.is_failed():
                    seat.done = True
                    continue
                code = self._failed(seat, result.failures[0].exitcode)
                if code:
                    self._stop_all(_INTERRUPT_S)
                    return code
            self._progress.update()
            time.sleep(_POLL_S)
        return 0

    def _failed(self, seat: Seat, exit_code: int) -> int:
        """Decide what a failure means: 0 to go on, else the exit code of the whole job."""
        self._event("failure", seat, exit_code)
        cause = (
            f"was killed by {signal.Signals(-exit_code).name}"
            if exit_code < 0
            else f"failed with exit code {exit_code}"
        )
        if exit_code == 2:
            self._complain(seat, None)
            return 2
        if self.plan.collective:
            self._complain(
                seat, f"worker {seat.rank} {cause}; a {self.plan.run.exchange.method} job ends with any of its workers"
            )
            return 1
        if self._finishing():
            self._progress.say(f"worker {seat.rank} {cause} while the job was ending; it is not restarted")
            seat.done = True
            return 0
        if seat.attempt >= self.plan.run.run.restarts:
            self._complain(seat, f"worker {seat.rank} {cause}; its {self.plan.run.run.restarts} restarts are used up")
            return 1
        delay = min(_BACK_OFF_S, 2.0 ** (seat.attempt - 1)) if seat.attempt else 0.0
        seat.due = time.monotonic() + delay
        self._progress.say(f"worker {seat.rank} {cause}; starting it again")
        return 0

    def _finishing(self) -> bool:
        """Whether a worker has left in good order: who comes now would find nobody to join."""
        return any(self._view.open(member)[layout.STATE] == State.GONE for member in self._view.members())

    def _complain(self, seat: Seat, reason: str | None) -> None:
        """Say why the job ends: a worker's own words, and where all of them are."""
        assert seat.logs is not None
        said = seat.logs.stderr
        lines = said.read_text(errors="replace").splitlines() if said.exists() else []
        if reason is None:
            self._progress.say("\n".join(line for line in lines if line)[-1000:])
            return
        self._progress.say("\n".join([*lines[-_LAST_LINES:], f"gosgd: {reason}; its log: {said}"]))

    def _event(self, event: str, seat: Seat, exit_code: int | None = None) -> None:
        line: dict[str, Any] = {"time": time.time(), "event": event, "worker": seat.rank, "attempt": seat.attempt}
        if exit_code is not None:
            line["exit_code"] = exit_code
        with (self.plan.directory.path / "events.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _stop_all(self, patience_s: float) -> None:
        """SIGTERM to everybody at once, SIGKILL to whoever is still there when patience ends."""
        contexts = [seat.context for seat in self.seats if seat.context is not None]
        pids = [pid for context in contexts for pid in context.pids().values()]
        for pid in pids:
            _signal(pid, signal.SIGTERM if patience_s else signal.SIGKILL)
        deadline = time.monotonic() + patience_s
        running = [context for context in contexts if context.wait(timeout=0) is None]
        while running and time.monotonic() < deadline:
            time.sleep(0.02)
            running = [context for context in running if context.wait(timeout=0) is None]
        for context in running:
            for pid in context.pids().values():
                _signal(pid, signal.SIGKILL)
            context.close(signal.SIGKILL, timeout=2)
        for seat in self.seats:
            seat.context = None

    def _report(self, code: int) -> int:
        directory = self.plan.directory
        summary = directory.read_summary()
        if self.interrupted:
            print(f"gosgd: interrupted; go on with: gosgd train ... --resume {directory.path}", file=sys.stderr)
            return code
        if code:
            return code
        if summary is None:
            print(f"gosgd: the workers ended without a consensus model; see {directory.logs}", file=sys.stderr)
            return 1
        print(table(summary, directory.path))
        return 0


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)  # a worker leads a session of its own: its loader processes go with it
