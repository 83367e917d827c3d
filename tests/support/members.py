"""Members of a job under a test's control, as threads or as real processes, with messages that show when they are torn.

Every element of a message holds step * 8 + seat, which float32 represents exactly below step 2**21. A `Cluster` starts
members, kills them, and reads the ledger from outside.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from support.remote import Handle, in_a_thread, in_process_of_its_own
from torch import Tensor

from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import Member, State
from gossip.leaving import depart, inherit
from gossip.ledger import audit
from gossip.mail import Letter, Peer
from gossip.mass import Ledger, share_out
from gossip.outbox import Outbox
from gossip.transports.in_process import InProcess, Meeting
from gossip.transports.shared_memory import SharedMemory
from gossip.transports.view import View, make_sides


class Actor:
    """One member: its outbox, and methods that a test calls from elsewhere. Results are plain values.

    Args:
        place: the `Meeting` or the path of the job directory.
        mass: shares it is founded with.
        joining: whether it has no weights yet and waits for a first message.
    """

    def __init__(
        self, place: Meeting | str, seat: int, dimension: int, slots: int, mass: int, joining: bool, patience: int = 50
    ) -> None:
        self.transport = self.enter(place, seat, dimension, slots)
        words = self.transport.words
        words[layout.GENESIS] = mass
        words[layout.STATE] = State.JOINING if joining else State.ACTIVE
        self.outbox = Outbox(self.transport, mass, patience)
        self.step = 0
        self.merged: list[tuple[int, int]] = []
        self.torn = 0
        self._vector = torch.zeros(dimension)
        self.transport.appear()

    def enter(self, place: Any, seat: int, dimension: int, slots: int) -> InProcess | SharedMemory:
        if isinstance(place, Meeting):
            return InProcess(place, seat, dimension, torch.float32, slots)
        return SharedMemory(JobDirectory.open(place), seat, dimension, torch.float32, slots)

    def me(self) -> Member:
        return self.transport.me

    def mass(self) -> int:
        return self.outbox.mass

    def counters(self) -> dict[str, int]:
        return asdict(self.outbox.counters)

    def unread(self) -> int:
        return self.outbox.unread()

    def slots(self) -> int:
        return self.transport.slots()

    def state(self) -> int:
        return self.transport.words[layout.STATE]

    def read_messages(self) -> list[tuple[int, int]]:
        """(seat of the sender, its step) of every message merged, in order."""
        return self.merged

    def torn_messages(self) -> int:
        return self.torn

    def meet(self) -> list[Member]:
        self.outbox.refresh(self._merge)
        return [peer.member for peer in self.outbox.peers]

    def poll(self) -> int:
        return self.outbox.poll(self._merge)

    def bury(self) -> list[Member]:
        return self.outbox.bury(self._merge)

    def push(self, seat: int, shares: int | None = None) -> bool:
        """Push to the newest known member on a seat; half of the mass by default."""
        self.step += 1
        peer = max((peer for peer in self.outbox.peers if peer.member.seat == seat), key=lambda peer: peer.member)
        return self._push(peer, self.outbox.mass // 2 if shares is None else shares)

    def push_many(self, seat: int, times: int) -> tuple[int, float]:
        """(messages sent, longest push in seconds) of pushes in quick succession, each with a poll."""
        sent, longest = 0, 0.0
        for _ in range(times):
            began = time.perf_counter()
            sent += self.push(seat)
            self.poll()
            longest = max(longest, time.perf_counter() - began)
        return sent, longest

    def choosable(self) -> list[int]:
        return [peer.member.seat for peer in self.outbox.choosable(self.step)]

    def claim(self, name: str) -> bool:
        return self.transport.claim(name)

    def race(self, name: str, times: int) -> list[int]:
        """Which of `times` claims this member won."""
        return [turn for turn in range(times) if self.transport.claim(f"{name}-{turn}")]

    def claimant(self, name: str) -> Member | None:
        return self.transport.claimant(name)

    def run(
        self, seed: int, seconds: float, steps: int | None = None, pause_s: float = 0.0, until: str | None = None
    ) -> int:
        """Live like a worker without a model: push to random peers as fast as possible, merge, meet, bury.

        Args:
            seed: of the choice of peers.
            seconds: when to stop, unless `steps` are made before.
            pause_s: between steps, in place of a gradient.
            until: a file whose appearance ends the run.

        Returns:
            The steps made.
        """
        generator = random.Random(seed)
        deadline = time.monotonic() + seconds
        made = 0
        while time.monotonic() < deadline and made != steps:
            made += 1
            self.step += 1
            candidates = [
                peer
                for peer in self.outbox.peers
                if peer.state() == State.JOINING or peer in self.outbox.choosable(self.step)
            ]
            if candidates and self.transport.words[layout.STATE] == State.ACTIVE:
                self._push(generator.choice(candidates), self.outbox.mass // 2)
            self.outbox.poll(self._merge)
            if made % 64 == 0 or self.transport.words[layout.STATE] == State.JOINING:
                self.meet()
            if until is not None and made % 16 == 0 and Path(until).exists():
                break
            if pause_s:
                time.sleep(pause_s)
        return made

    def leave(self, seconds: float = 30.0) -> bool | None:
        """Go on leaving until it is done; whether this member is the last, None if time ran out."""
        deadline = time.monotonic() + seconds
        outcome = None
        while outcome is None and time.monotonic() < deadline:
            outcome = self.leave_once()
            time.sleep(0.0005)
        return outcome

    def leave_once(self) -> bool | None:
        self.step += 1
        return depart(self.outbox, self.step, self._write, self._merge)

    def inherit(self, founders: int) -> int:
        """One attempt to take over the mass of a job that is extinct; the shares taken."""
        return inherit(self.outbox, founders)

    def close(self) -> None:
        self.transport.close()

    def fork_a_child(self) -> int:
        """Fork a process that inherits every open file and sleeps, as a DataLoader worker would; its id."""
        child = os.fork()
        if child == 0:
            signal.alarm(90)
            signal.pause()
            os._exit(0)
        return child

    def _push(self, peer: Peer, shares: int) -> bool:
        return self.outbox.push(peer, shares, self.step, self._write)

    def _write(self, slot: Tensor, letter: Letter) -> None:
        self._vector.fill_(self.step * 8 + self.transport.me.seat)
        slot.copy_(self._vector)

    def _merge(self, slot: Tensor, weight: float, step: int, letter: Letter) -> None:
        value = int(slot[0])
        if value // 8 != step or not bool((slot == value).all()) or not 0 < weight <= 1:
            self.torn += 1
        if len(self.merged) < 10_000:
            self.merged.append((value % 8, step))


class Cluster:
    """A job of actors, and what an observer outside sees of it.

    Args:
        dimension: elements of a message.
        founders: seats the mass is shared out to.
        seats: as many as founders by default.
        slots: of each member.
    """

    kind = ""

    def __init__(self, founders: int, dimension: int = 64, seats: int | None = None, slots: int = 4) -> None:
        self.founders, self.dimension, self.slots = founders, dimension, slots
        self.seats = seats or founders
        self.handles: list[Handle] = []
        self.members: dict[int, Handle] = {}
        self.books: Any = None
        self.sides: Any = None

    def found(self, patience: int = 50) -> list[Handle]:
        """Start all founders and let them meet."""
        for seat, mass in enumerate(share_out(self.founders)):
            self.members[seat] = self._start(seat, mass, False, patience)
        founders = [self.members[seat] for seat in range(self.founders)]
        for founder in founders:
            founder.answer()
        for founder in founders:
            founder.ask("meet")
        return founders

    def join(self, seat: int) -> Handle:
        """Start a member without mass or weights."""
        self.members[seat] = self._start(seat, 0, True, 50)
        self.members[seat].answer()
        return self.members[seat]

    def kill(self, seat: int) -> None:
        """End a member's life, between two of its instructions for a process, between two calls for a thread."""
        self.members.pop(seat).kill()

    def ledger(self, attempts: int = 100) -> Ledger:
        """Where all shares are now."""
        return audit(self.books, self.founders, attempts)

    def slots_of(self, member: Member) -> int:
        """How many slots of a member take up memory."""
        raise NotImplementedError

    def part(self, *sides: int) -> None:
        """Cut the job: members whose seats are on different sides cannot reach each other."""
        for seat, side in enumerate(sides):
            self.sides[seat] = side

    def end(self) -> None:
        """Reap everything."""
        for handle in self.handles:
            handle.end()

    def _start(self, seat: int, mass: int, joining: bool, patience: int) -> Handle:
        handle = self._run(seat, self.dimension, self.slots, mass, joining, patience)
        self.handles.append(handle)
        return handle

    def _run(self, *arguments: Any) -> Handle:
        raise NotImplementedError


class Threads(Cluster):
    """Members are threads of this process."""

    kind = "in_process"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.books = Meeting(self.seats)
        self.sides = self.books.sides

    def _run(self, *arguments: Any) -> Handle:
        return in_a_thread(Actor, self.books, *arguments)

    def kill(self, seat: int) -> None:
        member = Member(seat, self.books.generations()[seat] - 1)
        super().kill(seat)
        self.books.kill(member)

    def slots_of(self, member: Member) -> int:
        return len(self.books.slots(member))


class Processes(Cluster):
    """Members are processes of their own, in a job directory in shared memory."""

    kind = "shared_memory"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.directory = JobDirectory.create(self.seats, self.founders)
        self.sides = make_sides(self.directory)
        self.books = View(self.directory)

    def _run(self, *arguments: Any) -> Handle:
        return in_process_of_its_own(Actor, str(self.directory.path), *arguments)

    def slots_of(self, member: Member) -> int:
        return len(list(self.directory.path.glob(f"{member.seat}-{member.generation}.slot-*")))

    def end(self) -> None:
        super().end()
        self.directory.remove()
