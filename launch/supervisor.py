"""Starts the workers of one host and looks after them. Imports launch's lower modules and torch's elastic processes.

A worker that fails is restarted alone; the workers of a collective method can only go on together, so there one failure
ends all. A server that keeps a central variable is one more process, and nothing goes on without it.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, Protocol

from torch.distributed.elastic.multiprocessing import SignalException

from gossip.directory import JobDirectory
from launch.budget import Budget
from launch.errors import DONE, MISTAKE, RunFailedError, said, say
from launch.plan import Plan
from launch.progress import Progress, table
from launch.seat import Seat

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_POLL_S = 0.05
_INTERRUPT_S = 2.0
_FAILURE_S = 10.0
_LAST_LINES = 12


class Companion(Protocol):
    """Somebody who looks on while a job is supervised, and may meddle."""

    def prepare(self, job: JobDirectory) -> None:
        """Before the workers come."""

    def turn(self, seats: Sequence[Seat]) -> None:
        """Some twenty times a second, with the workers."""

    def finish(self) -> None:
        """Before the supervisor's own last word to the workers."""


class Supervisor:
    """Runs a planned job to its end.

    Args:
        plan: of the job.
        companion: looks on.
    """

    def __init__(self, plan: Plan, companion: Companion | None = None) -> None:
        self.plan = plan
        self._companion = companion
        self._budgets: dict[str, Budget] = {}
        self._given_up: list[Seat] = []
        self._interrupted = 0
        self._signals = 0

    def run(self) -> int:
        """Start, watch, restart, tidy up.

        Returns:
            The exit code: 0 done, 128 + the signal's number after an interrupt.

        Raises:
            ValueError: a mistake of the user's that only a worker could see.
            RunFailedError: the job cannot go on.
        """
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        plan = self.plan
        job = JobDirectory.create(plan.seats, plan.workers)
        try:
            plan.directory.prepare(plan.loaded, plan.workers)
            self._workers = [Seat(rank, plan, job) for rank in range(plan.workers)]
            # Looked at last: of a server and a worker that failed for want of it, both are seen at once.
            self._seats = [*self._workers, *([Seat(None, plan, job)] if plan.serving == "process" else [])]
            if self._companion is not None:
                self._companion.prepare(job)
            with Progress(plan, job) as self._progress:
                self._listen()
                try:
                    self._watch()
                except (RunFailedError, ValueError):
                    self._stop(_FAILURE_S)
                    raise
                finally:
                    if self._companion is not None:
                        self._companion.finish()
                    self._stop(0.0)
                step = self._progress.step()
        finally:
            job.remove()
            plan.directory.let_go()
            for number, handler in self._before.items():
                signal.signal(number, handler)
        return self._report(step)

    def _listen(self) -> None:
        for number in _SIGNALS:
            if self._before[number] is not signal.SIG_IGN:
                signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = self._interrupted or number
        self._signals += 1

    def _start(self, seat: Seat) -> None:
        try:
            seat.start()
        except SignalException as stop:
            self._interrupt(stop.sigval, None)
        finally:  # starting a context installs handlers that raise
            self._listen()
        self._budget(seat).started(time.monotonic())
        if seat.attempt:
            self._event("restart", seat)

    def _budget(self, seat: Seat) -> Budget:
        return self._budgets.setdefault(seat.name, Budget(self.plan.run.run.restarts))

    def _watch(self) -> None:
        while not self._over():
            for seat in self._seats:
                if not (seat.done or seat.running or self._interrupted) and time.monotonic() >= seat.due:
                    self._start(seat)
            if self._interrupted:
                self._stop(_INTERRUPT_S)
                return
            ended = [(seat, code) for seat in self._seats if (code := seat.poll()) is not None]
            for seat, code in ended:
                seat.done = code == 0
            if failures := [(seat, code) for seat, code in ended if code]:
                self._judge(failures)
            self._progress.update()
            if self._companion is not None:
                self._companion.turn(self._workers)
            time.sleep(_POLL_S)
        self._stop(_FAILURE_S)  # a server, which ends by itself when all workers have left

    def _over(self) -> bool:
        """Whether nobody is to be waited for; where nobody wrote the end of the job, one goes on from what is left."""
        if not all(seat.done for seat in self._workers):
            return False
        if self._given_up and self.plan.directory.read_summary() is None:
            seat = self._given_up.pop()
            seat.done, seat.due = False, time.monotonic()
            self._progress.say(f"nobody is left who could end the job; {seat.name} is started again")
        return all(seat.done for seat in self._workers)

    def _judge(self, failures: list[tuple[Seat, int]]) -> None:
        """Decide what failures mean for the job: the end, or a restart."""
        for seat, code in failures:
            self._event("failure", seat, **({"signal": -code} if code < 0 else {"exit_code": code}))
        for seat, code in failures:
            if code == MISTAKE and seat.attempt == 0:  # later attempts have shown that the job itself is in order
                raise ValueError(said("\n".join(seat.output())) or f"{seat.name} refused to start")
        method = self.plan.run.exchange.method
        for seat, code in failures:
            if seat.rank is None:
                raise self._failed(
                    seat, code, f"a {method} job ends with its central variable; go on with --resume auto"
                )
        if self.plan.method.collective or self.plan.serving == "sharded":
            # A worker that merely lost its peer fails a moment after that peer did.
            seat, code = min(failures, key=lambda failure: (failure[1] > 0, _written(failure[0])))
            part = ", each of which holds a part of the central variable" if self.plan.serving else ""
            raise self._failed(seat, code, f"a {method} job ends with any of its workers{part}")
        for seat, code in failures:
            self._restart(seat, code)

    def _restart(self, seat: Seat, code: int) -> None:
        """Let a worker be started again, unless there is nobody to join any more or it has failed too often."""
        alone = not any(other.running for other in self._workers)
        if self.plan.method.rejoins and not self.plan.serving and self._progress.ending() and not alone:
            seat.done = True
            self._given_up.append(seat)
            self._progress.say(f"{seat.name} {_cause(code)} while the job was ending; it is not restarted")
            return
        budget, now = self._budget(seat), time.monotonic()
        delay = budget.failed(now)
        if delay is None:
            raise self._failed(seat, code, f"its {self.plan.run.run.restarts} restarts (run.restarts) are used up")
        seat.due = now + delay
        self._progress.say(f"{seat.name} {_cause(code)}; {budget.used}" + (f" in {delay:.0f} s" if delay else ""))

    def _failed(self, seat: Seat, code: int, why: str) -> RunFailedError:
        assert seat.logs is not None
        for line in seat.output()[-_LAST_LINES:]:
            self._progress.say(f"{seat.name} | {line}")
        return RunFailedError(f"{seat.name} {_cause(code)}; {why}; its log: {seat.logs.stderr}")

    def _event(self, event: str, seat: Seat, **figures: int) -> None:
        who = {"server": 0} if seat.rank is None else {"worker": seat.rank}
        line: dict[str, Any] = {"time": time.time(), "event": event, **who, "attempt": seat.attempt}
        with (self.plan.directory.path / "events.jsonl").open("a") as file:
            file.write(json.dumps(line | figures) + "\n")

    def _stop(self, patience_s: float) -> None:
        """SIGTERM to everybody at once, SIGKILL to whoever is left when patience ends or a second signal comes."""
        running = [seat for seat in self._seats if seat.running]
        for seat in running:
            seat.terminate()
        deadline, signals = time.monotonic() + patience_s, self._signals
        while running and time.monotonic() < deadline and self._signals == signals:
            time.sleep(0.02)
            running = [seat for seat in running if seat.poll() is None]
        for seat in running:
            seat.kill()

    def _report(self, step: int) -> int:
        directory = self.plan.directory
        summary = directory.read_summary()
        if self._interrupted:
            say(f"interrupted after step {step}; go on with --resume auto (run directory {directory.path})")
            return 128 + self._interrupted
        if summary is None:
            raise RunFailedError(
                f"all workers ended and none of them wrote {directory.summary}, see {directory.logs};"
                " go on with --resume auto"
            )
        print(table(summary, directory.path))
        return DONE


def _cause(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _written(seat: Seat) -> float:
    """When a worker last wrote to its log."""
    return seat.logs.stderr.stat().st_mtime if seat.logs is not None and seat.logs.stderr.exists() else 0.0
