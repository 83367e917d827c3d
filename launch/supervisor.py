"""Starts the workers of one host and looks after them. Imports launch's lower modules.

A worker that fails is restarted alone; the workers of a collective method can only go on together, so there all are
restarted. A server that keeps a central variable is one more process, which the workers wait for when it fails.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, Protocol

from configs.files import append_line
from gossip.directory import JobDirectory
from launch.budget import Budget
from launch.errors import MISTAKE, RunFailedError, said
from launch.last_word import cause, last_word, not_begun
from launch.nursery import Nursery
from launch.places import Founding, Place
from launch.plan import Plan
from launch.process import SIGNALS
from launch.progress import Progress
from launch.seat import Seat
from trainers.checkpoints import common

_POLL_S = 0.05
_SILENT_S = 5.0
_FAILURE_S = 10.0
_LAST_LINES = 12
_LITTLE = 2**20  # bytes, beside those of a model, that a run without checkpoints writes
_BEGUN_S = 60.0  # what a job may lose that has no checkpoint yet


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
        nursery: starts the workers' processes.
        companion: looks on.
        place: of this launcher in the job; it makes the job by default.

    Attributes:
        interrupted: the first signal that came, or 0.
    """

    def __init__(
        self, plan: Plan, nursery: Nursery, companion: Companion | None = None, place: Place | None = None
    ) -> None:
        self.plan = plan
        self._nursery = nursery
        self._companion = companion
        self._place = Founding(plan) if place is None else place
        self._budgets: dict[str, Budget] = {}
        self._given_up: list[Seat] = []
        self.interrupted = 0
        self._signals = 0
        self._late: list[Seat] = []

    def run(self) -> int:
        """Start, watch, restart, tidy up.

        Returns:
            The exit code: 0 done, or saved after SIGTERM or SIGUSR2; 128 + the signal's number after any other, or if
            a worker had to be killed before it had saved.

        Raises:
            ValueError: a mistake of the user's that only a worker could see.
            RunFailedError: the job cannot go on.
        """
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        plan = self.plan
        others: list[int] = []
        try:
            self._listen()
            # Nothing is made before somebody can be started who would remove it if this process were killed.
            while not (self._nursery.ready or self.interrupted):
                time.sleep(_POLL_S)
            if self.interrupted:
                return not_begun(self.interrupted)
            self._job = job = self._place.enter()
            self._workers = [Seat(rank, plan, job, self._nursery) for rank in self._place.ranks]
            # Looked at last: of a server and a worker that failed for want of it, both are seen at once.
            self._seats = [*self._workers, *([Seat(None, plan, job, self._nursery)] if self._place.serves else [])]
            if self._companion is not None:
                self._companion.prepare(job)
            with Progress(plan, job, self._place.ranks) as self._progress:
                try:
                    self._watch()
                except Exception:
                    self._stop(_FAILURE_S)
                    raise
                finally:
                    if self._companion is not None:
                        self._companion.finish()
                    self._stop(0.0)
                step = self._progress.step()
        finally:
            others = self._place.leave()
            for number, handler in self._before.items():
                signal.signal(number, handler)
        return last_word(self.plan, step, others, self.interrupted, [seat.name for seat in self._late])

    def _listen(self) -> None:
        for number in SIGNALS:  # what is ignored, as under nohup, stays so
            ignored = self._before[number] is signal.SIG_IGN
            signal.signal(number, signal.SIG_IGN if ignored else self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or number
        self._signals += 1

    def _start(self, seat: Seat) -> None:
        seat.start()
        self._budget(seat).started(time.monotonic())
        if seat.attempt:
            self._event("restart", seat)

    def _budget(self, seat: Seat) -> Budget:
        return self._budgets.setdefault(seat.name, Budget(self.plan.run.run.restarts))

    def _watch(self) -> None:
        while not self._over():
            for seat in self._seats:
                waiting = not (seat.done or seat.running or self.interrupted)
                if waiting and time.monotonic() >= seat.due:
                    self._start(seat)
            if self.interrupted:
                self._late = self._stop(self.plan.run.run.grace_s)
                return
            ended = [(seat, code) for seat in self._seats if (code := seat.poll()) is not None]
            for seat, code in ended:
                seat.done = code == 0
                if seat.done and seat.rank is not None:
                    self._left(seat, seat.rank)
            if failures := [(seat, code) for seat, code in ended if code]:
                self._judge(failures)
            self._progress.update()
            if self._companion is not None:
                self._companion.turn(self._workers)
            time.sleep(_POLL_S)
        self._stop(_FAILURE_S)  # a server, which ends by itself when all workers have left

    def _left(self, seat: Seat, rank: int) -> None:
        came = self._progress.came(rank)
        if came and not self._progress.early(rank):
            return
        self._event("leave", seat)
        self._progress.say(f"{seat.name} left")
        if not came and self.plan.method.collective:
            self._interrupt(signal.SIGTERM, None)  # the others would wait for it in vain
        elif not came:
            self._job.give_up(rank)

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
        # A worker that merely lost its peer, or its server, fails a moment after that one did.
        seat, code = min(failures, key=lambda failure: (failure[1] > 0, _written(failure[0])))
        serving = self.plan.serving
        if (serving or self.plan.method.collective) and self.plan.directory.read_summary() is not None:
            self._progress.say(f"{seat.name} {cause(code)} when the job had come to its end")
            self._stop(_FAILURE_S)
            for seat in self._seats:
                seat.done = True
        elif serving and getattr(self.plan.run.exchange, "server_loss", "") == "stop":
            self._judge_holders(failures, seat, code)
        elif self.plan.method.collective:
            self._restart_all(seat, code)
        else:
            for seat, code in failures:
                self._restart(seat, code)

    def _judge_holders(self, failures: list[tuple[Seat, int]], first: Seat, first_code: int) -> None:
        """Decide where the job is to stop with whoever holds the central variable, or a part of it."""
        method = self.plan.run.exchange.method
        for seat, code in failures:
            if seat.rank is None:
                why = f"a {method} job ends with its central variable (exchange.server_loss); go on with --resume auto"
                raise self._failed(seat, code, why)
        if self.plan.serving == "sharded":
            why = f"a {method} job ends with any of its workers, each of which holds a part of the central variable"
            raise self._failed(first, first_code, why)
        for seat, code in failures:
            self._restart(seat, code)

    def _restart_all(self, seat: Seat, code: int) -> None:
        """Start all workers anew after the failure of one: from where all have a checkpoint, or the job's beginning."""
        budget, now = self._budget(self._workers[0]), time.monotonic()
        ends = f"a {self.plan.run.exchange.method} job ends with any of its workers"
        delay = budget.failed(now)
        if delay is None:
            restarts = self.plan.run.run.restarts
            raise self._failed(seat, code, f"{ends}, and its {restarts} restarts (run.restarts) are used up")
        found = common(self.plan.directory.checkpoints, self.plan.workers)
        if found is None and time.time() - self._workers[0].began > _BEGUN_S:
            raise self._failed(seat, code, f"{ends} where it has no checkpoints (run.checkpoint_every)")
        self._event("restart_all", seat)
        since = "anew" if found is None else f"from step {found.step}"
        wait = f" in {delay:.0f} s" if delay else ""
        self._progress.say(f"{seat.name} {cause(code)}; all workers go on {since}, {budget.used}{wait}")
        self._stop(0.0)
        self._place.leave()
        job = self._place.enter()
        self.plan = dataclasses.replace(self.plan, resume=True)
        attempts = [worker.attempt for worker in self._workers]
        self._workers = self._seats = [Seat(rank, self.plan, job, self._nursery) for rank in self._place.ranks]
        for worker, attempt in zip(self._workers, attempts, strict=True):
            worker.attempt, worker.due = attempt, now + delay
        self._progress.follow(job)
        if self._companion is not None:
            self._companion.prepare(job)

    def _restart(self, seat: Seat, code: int) -> None:
        """Let a worker be started again, unless there is nobody to join any more or it has failed too often."""
        alone = not any(other.running for other in self._workers)
        if self.plan.method.rejoins and not self.plan.serving and self._progress.ending() and not alone:
            seat.done = True
            self._given_up.append(seat)
            self._progress.say(f"{seat.name} {cause(code)} while the job was ending; it is not restarted")
            return
        budget, now = self._budget(seat), time.monotonic()
        delay = budget.failed(now)
        if delay is None and code == MISTAKE and self._dispensable(seat):
            self._leave_out(seat)
            return
        if delay is None:
            raise self._failed(seat, code, f"its {self.plan.run.run.restarts} restarts (run.restarts) are used up")
        seat.due = now + delay
        self._progress.say(f"{seat.name} {cause(code)}; {budget.used}" + (f" in {delay:.0f} s" if delay else ""))

    def _dispensable(self, seat: Seat) -> bool:
        """Whether the job goes on, or has ended, without a worker. A server would wait for it."""
        if self.plan.serving or not self.plan.method.rejoins:
            return False
        going_on = any(not other.done for other in self._workers if other is not seat)
        return going_on or self.plan.directory.read_summary() is not None

    def _leave_out(self, seat: Seat) -> None:
        """Do without a worker that cannot come back as things are now, such as one with another model than before."""
        seat.done = True
        if seat.rank is not None and not self._progress.came(seat.rank):
            self._job.give_up(seat.rank)
        why = " ".join(said("\n".join(seat.output())).split())
        self._progress.say(f"{seat.name} refused to start, the others go on without it: {why}")

    def _failed(self, seat: Seat, code: int, why: str) -> RunFailedError:
        assert seat.logs is not None
        for line in seat.output()[-_LAST_LINES:]:
            self._progress.say(f"{seat.name} | {line}")
        free, needed = self.plan.directory.room(), 4 * self.plan.parameters + _LITTLE
        scarce = free is not None and free < needed
        full = f"; {free:,} bytes are free on the disk of {self.plan.directory.path}" if scarce else ""
        return RunFailedError(f"{seat.name} {cause(code)}; {why}; its log: {seat.logs.stderr}{full}")

    def _event(self, event: str, seat: Seat, **figures: int) -> None:
        who = {"server": 0} if seat.rank is None else {"worker": seat.rank}
        line: dict[str, Any] = {"time": time.time(), "event": event, **who, "attempt": seat.attempt}
        try:
            append_line(self.plan.directory.path / "events.jsonl", json.dumps(line | figures))
        except OSError as error:  # a full disk ends no job
            self._progress.say(f"events.jsonl: {event} of {seat.name} not written: {error.strerror}")

    def _stop(self, patience_s: float) -> list[Seat]:
        """SIGTERM to everybody at once, SIGKILL to whoever is left when patience ends or a second signal comes.

        Returns:
            Who had to be killed.
        """
        running = [seat for seat in self._seats if seat.running]
        for seat in running:
            seat.terminate()
        began, signals, told = time.monotonic(), self._signals, False
        while running and time.monotonic() - began < patience_s and self._signals == signals:
            time.sleep(0.02)
            running = [seat for seat in running if seat.poll() is None]
            if running and self.interrupted and not told and time.monotonic() - began > _SILENT_S:
                told = True
                names = ", ".join(seat.name for seat in running)
                self._progress.say(f"{names}: up to {patience_s:.0f} s to save; a second signal ends them at once")
        for seat in running:
            seat.kill()
        return running


def _written(seat: Seat) -> float:
    """When a worker last wrote to its log."""
    return seat.logs.stderr.stat().st_mtime if seat.logs is not None and seat.logs.stderr.exists() else 0.0
