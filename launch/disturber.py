"""Carries a schedule of faults out on the workers of a supervised job, and notes what becomes of them.

Imports launch.faults, launch.seat and gossip. It acts between two looks of the supervisor, so that faults and restarts
are seen by one clock, and reads everything else off shared memory: no worker is asked for anything.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import Member, State
from gossip.transports.view import View, make_sides
from launch.faults import Fault
from launch.seat import Seat

_LOOK_S = 0.25


class Look(NamedTuple):
    """The job at one instant.

    Attributes:
        time: on the clock of `time.time`.
        steps: local steps of everybody who ever was; after a start of all workers anew, from where they go on.
        up: workers that are not dead, joining or stopped.
        finished: workers that make no more local steps.
    """

    time: float
    steps: int
    up: int
    finished: int


@dataclass
class Recovery:
    """What became of a killed worker's seat; instants on the clock of `time.time`, None before they came.

    Attributes:
        seat: of the victim.
        killed: when it was.
        members: how many had been seen on its seat by then, in the job as it is now.
        started: its next process was started.
        up: that process had its place in the job (before: the interpreter and its imports).
        fed: it had a peer's weights.
        training: it had made its first local step.
        again: that process was killed before.
    """

    seat: int
    killed: float
    members: int
    started: float | None = None
    up: float | None = None
    fed: float | None = None
    training: float | None = None
    again: bool = False


class Disturber:
    """The companion of a supervisor that disturbs its job; with an empty schedule it only looks on.

    Args:
        schedule: in the order of time; its clock starts when every worker has made its first step.
        prompt: start that clock with the first worker that comes up instead.
        last: kill a worker, too, when the first of them has made its steps.
        seed: of whom that hits.

    Attributes:
        began: when the schedule's clock started.
        events: what was done, with the time and the workers it was done to.
        looks: at the whole job, some a second.
        recoveries: of killed workers.
        down: (seat, from, to) of the times that a worker was dead, joining or stopped.
    """

    def __init__(self, schedule: Sequence[Fault], prompt: bool = False, last: bool = False, seed: int = 0) -> None:
        self._schedule = list(schedule)
        self._prompt, self._last = prompt, last
        self._generator = random.Random(seed)
        self.began: float | None = None
        self.events: list[dict[str, Any]] = []
        self.looks: list[Look] = []
        self.recoveries: list[Recovery] = []
        self.down: list[tuple[int, float, float]] = []
        self._fell: dict[int, float] = {}
        self._stopped: dict[int, tuple[int, float]] = {}
        self._again: dict[int, float] = {}
        self._sides: memoryview | None = None
        self._healed: float | None = None
        self._view: View | None = None

    def prepare(self, job: JobDirectory) -> None:
        """Before the workers come, or all of them anew: partitions need a place in the job's directory."""
        self._sides = make_sides(job)
        self._view = View(job)
        for one in self.recoveries:
            one.members = 0

    def turn(self, seats: Sequence[Seat]) -> None:
        """One look, and whatever is due."""
        assert self._view is not None
        view, now = self._view, time.time()
        self._observe(view, seats, now)
        if self.began is None:
            steps = [view.open(member)[layout.DONE] for member in view.members()]
            ready = bool(steps) if self._prompt else len(steps) == len(seats) and all(steps)
            if not ready:
                return
            self.began = now
        self._heal(now)
        while self._schedule and now - self.began >= self._schedule[0].at_s:
            self._strike(self._schedule.pop(0), seats, view, now)
        for rank, delay in [*self._again.items()]:
            seat = seats[rank]
            if seat.pid is not None and seat.began > self._killed(rank) and now - seat.began >= delay:
                del self._again[rank]
                self._strike(Fault(0.0, "kill", (rank,)), seats, view, now)
        if self._last and self.looks[-1].finished:
            self._last = False
            self._strike(Fault(0.0, "kill", (self._generator.randrange(len(seats)),)), seats, view, now)

    def finish(self) -> None:
        """Let everything go on that is stopped, and close what was cut."""
        now = time.time()
        self._heal(now, all_of_it=True)
        for seat in [*self._fell]:
            self._rise(seat, now)

    def _strike(self, fault: Fault, seats: Sequence[Seat], view: View, now: float) -> None:
        struck: list[int] = []
        if fault.kind == "partition":
            struck += self._cut(fault, now)
        for wanted in fault.victims if fault.kind != "partition" else ():
            rank = self._running(seats, wanted, struck)
            pid = None if rank is None else seats[rank].pid
            if rank is None or pid is None:
                continue
            struck.append(rank)
            self._fell.setdefault(rank, now)
            if fault.kind == "stop":
                self._signal(pid, signal.SIGSTOP)
                self._stopped[rank] = (pid, now + fault.for_s)
            else:
                self._signal(pid, signal.SIGKILL)
                for one in self.recoveries:
                    one.again = one.again or (one.seat == rank and one.training is None)
                self.recoveries.append(Recovery(rank, now, view.generations()[rank]))
            if fault.kind == "kill_again":
                self._again[rank] = fault.for_s
        if struck:
            self.events.append({"time": now, "event": fault.kind, "workers": struck})

    def _cut(self, fault: Fault, now: float) -> list[int]:
        assert self._sides is not None
        for seat in fault.victims:
            self._sides[seat] = 1
        self._healed = now + fault.for_s
        return list(fault.victims)

    def _running(self, seats: Sequence[Seat], wanted: int, struck: list[int]) -> int | None:
        """The wanted seat, or the next one with a process that goes."""
        ranks = [(wanted + turn) % len(seats) for turn in range(len(seats))]
        free = [rank for rank in ranks if seats[rank].pid and rank not in self._stopped and rank not in struck]
        return free[0] if free else None

    def _heal(self, now: float, all_of_it: bool = False) -> None:
        for rank, (pid, until) in [*self._stopped.items()]:
            if all_of_it or now >= until:
                del self._stopped[rank]
                self._signal(pid, signal.SIGCONT)
                self._rise(rank, now)
                self.events.append({"time": now, "event": "continue", "workers": [rank]})
        if self._sides is not None and self._healed is not None and (all_of_it or now >= self._healed):
            self._healed = None
            for seat in range(len(self._sides)):
                self._sides[seat] = 0
            self.events.append({"time": now, "event": "heal", "workers": []})

    def _signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _killed(self, rank: int) -> float:
        return max(one.killed for one in self.recoveries if one.seat == rank)

    def _rise(self, rank: int, now: float) -> None:
        if rank in self._fell:
            self.down.append((rank, self._fell.pop(rank), now))

    def _observe(self, view: View, seats: Sequence[Seat], now: float) -> None:
        for one in self.recoveries:
            if one.training is None:
                self._follow(one, view, seats[one.seat], now)
        if not self.looks or now - self.looks[-1].time >= _LOOK_S:
            words = [view.open(member) for member in view.everybody()]
            steps = sum(own[layout.DONE] + own[layout.EARLIER] for own in words)
            if self.looks and len(view.members()) < len(seats):  # all are started anew, and some are not there yet
                steps = self.looks[-1].steps
            finished = sum(bool(view.open(member)[layout.FINISHED]) for member in view.members())
            self.looks.append(Look(now, steps, len(seats) - len(self._fell), finished))

    def _follow(self, one: Recovery, view: View, seat: Seat, now: float) -> None:
        if one.started is None and seat.pid is not None and seat.began > one.killed:
            one.started = seat.began
        count = view.generations()[one.seat]
        if one.started is None or count <= one.members:
            return
        words = view.open(Member(one.seat, count - 1))
        one.up = one.up or now
        if words[layout.STATE] >= State.ACTIVE:
            one.fed = one.fed or now
        if words[layout.DONE]:
            one.training = now
            if one.killed == self._killed(one.seat):
                self._rise(one.seat, now)
