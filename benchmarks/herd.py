"""Processes that only push, merge, meet and bury, and are killed and stopped meanwhile: what benchmarks.stress drives.

Every element of a message holds its identity (who to whom, the how-manieth), so a torn one shows. Who merges one writes
its identity to a file of its own, outside of the transport, so that one merged twice shows as well, even
when it came back to its sender.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.fleet import Signs
from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import Member, State
from gossip.leaving import depart, inherit
from gossip.ledger import audit
from gossip.mail import Letter
from gossip.mass import SCANT, halve, share_out
from gossip.outbox import Outbox
from gossip.transports.shared_memory import SharedMemory
from gossip.transports.view import View

DIMENSION, SLOTS = 4096, 4
LEAVE, GO = 1, 2
LEAVE_S = 60.0
_SEAT_BITS, _GENERATION_BITS, _SEQUENCE_BITS = 6, 14, 23
_INSPECTION_S = 0.1


def identity(letter: Letter) -> int:
    """A message's name as one positive 64-bit number."""
    number = 0
    for seat, generation in (letter.sender, letter.receiver):
        assert seat < 1 << _SEAT_BITS and generation < 1 << _GENERATION_BITS
        number = number << _SEAT_BITS + _GENERATION_BITS | seat << _GENERATION_BITS | generation
    assert letter.sequence < 1 << _SEQUENCE_BITS
    return number << _SEQUENCE_BITS | letter.sequence


def letter_of(number: int) -> Letter:
    """The inverse of `identity`."""
    members, sequence = divmod(number, 1 << _SEQUENCE_BITS)
    ends = [Member(*divmod(end, 1 << _GENERATION_BITS)) for end in divmod(members, 1 << _SEAT_BITS + _GENERATION_BITS)]
    return Letter(ends[0], ends[1], sequence)


def came_back(numbers: NDArray[np.int64], member: Member) -> int:
    """How many of the messages with these identities a member itself had sent."""
    sender = numbers >> (_SEAT_BITS + _GENERATION_BITS + _SEQUENCE_BITS)
    return int((sender == (member.seat << _GENERATION_BITS | member.generation)).sum())


class Life:
    """One process's: it pushes to random peers as fast as it can until a sign is given, then leaves.

    Args:
        seat: to take; the first to take one of a founder's is founded with mass, all others join.
        logs: folder for what it merged.
    """

    def __init__(self, directory: JobDirectory, seat: int, logs: Path, seed: int) -> None:
        self._transport = SharedMemory(directory, seat, DIMENSION, torch.int64, SLOTS)
        self._founders = directory.founders
        self._me, self._words = self._transport.me, self._transport.words
        self._generator = random.Random(repr((seed, *self._me)))
        mass = share_out(self._founders)[seat] if self._me.generation == 0 else 0
        self._words[layout.GENESIS] = mass
        self._words[layout.STATE] = State.ACTIVE if mass else State.JOINING
        name = f"{self._me.seat}-{self._me.generation}"
        self._log, self._torn = (
            os.open(logs / f"{name}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_EXCL) for kind in ("merged", "torn")
        )
        self._outbox = Outbox(self._transport, mass)
        self._step = 0
        self._transport.appear()

    def live(self, signs: Signs) -> None:
        """Until it is time to leave."""
        outbox, inspected = self._outbox, 0.0
        seen: list[Any] = []
        while signs[0] < LEAVE:
            self._step += 1
            board = list(self._transport.generations())
            if board != seen:
                seen = board
                outbox.refresh(self._merge)
            if outbox.mass > 1:
                hungry = [peer for peer in outbox.peers if peer.state() == State.JOINING and not outbox.fed(peer)]
                if choice := hungry or outbox.choosable(self._step):
                    outbox.push(self._generator.choice(choice), halve(outbox.mass)[1], self._step, self._write)
            outbox.poll(self._merge)
            if time.monotonic() - inspected > _INSPECTION_S:
                inspected = time.monotonic()
                outbox.bury(self._merge)
                if outbox.mass < SCANT and inherit(outbox, self._founders):
                    self._words[layout.STATE] = State.ACTIVE

    def leave(self, signs: Signs) -> None:
        """Hand everything over; the last one stays until it is told to go, because its mass counts while it lives."""
        deadline = time.monotonic() + LEAVE_S
        while (last := depart(self._outbox, self._step, self._write, self._merge)) is None:
            assert time.monotonic() < deadline, "nobody took over"
            time.sleep(0.0005)
        if last:
            signs[1 + self._me.seat] = 1
            while signs[0] < GO:
                time.sleep(0.001)
        self._transport.close()

    def _write(self, slot: Tensor, letter: Letter) -> None:
        slot.fill_(identity(letter))

    def _merge(self, slot: Tensor, weight: float, step: int, letter: Letter) -> None:
        number = identity(letter)
        if not bool((slot == number).all()) or not 0 < weight <= 1:
            os.write(self._torn, number.to_bytes(8, "little"))
        os.write(self._log, number.to_bytes(8, "little"))


def signs_of(directory: JobDirectory) -> Signs:
    """What everybody is to do, and behind it a word a seat: whether it is the last and done."""
    return Signs(directory.path / "signs", 1 + directory.seats)


def _live(directory: JobDirectory, seat: int, logs: Path, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    logging.getLogger("gosgd").setLevel(logging.ERROR)  # of stopped members everybody's pool grows
    life = Life(directory, seat, logs, seed)
    signs = signs_of(directory)
    life.live(signs)
    life.leave(signs)
    os._exit(0)


class Herd:
    """The processes of a job, one a seat, and what is done to them."""

    def __init__(self, directory: JobDirectory, logs: Path, seed: int) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.fleet"])
        self._arguments = (directory, logs, seed)
        self.view = View(directory)
        self.stopped_until: dict[int, float] = {}
        self.done = {"kills": 0, "stops": 0, "several at once": 0, "killed while joining": 0, "killed while stopped": 0}
        self.processes: list[BaseProcess] = [self._start(seat) for seat in range(directory.seats)]

    def _start(self, seat: int) -> BaseProcess:
        directory, logs, seed = self._arguments
        process = self._context.Process(target=_live, args=(directory, seat, logs, seed), daemon=True)
        process.start()
        return process

    def kill(self, seats: list[int]) -> None:
        """SIGKILL some, all at once, and start others in their place."""
        count = self.view.generations()
        for seat in seats:
            state = self.view.open(Member(seat, count[seat] - 1))[layout.STATE] if count[seat] else State.STARTING
            self.done["killed while joining"] += state < State.ACTIVE
            self.done["killed while stopped"] += self.stopped_until.pop(seat, None) is not None
            self.processes[seat].kill()
        for seat in seats:
            self.processes[seat].join()
            self.processes[seat] = self._start(seat)
        self.done["kills"] += len(seats)
        self.done["several at once"] += len(seats) > 1

    def stop(self, seat: int, seconds: float) -> None:
        """SIGSTOP one for a while."""
        if seat not in self.stopped_until:
            self._send(seat, signal.SIGSTOP)
            self.stopped_until[seat] = time.monotonic() + seconds
            self.done["stops"] += 1

    def resume(self, everybody: bool = False) -> None:
        """SIGCONT those whose time is over."""
        for seat, until in [*self.stopped_until.items()]:
            if everybody or time.monotonic() > until:
                del self.stopped_until[seat]
                self._send(seat, signal.SIGCONT)

    def frozen_ledger(self) -> tuple[bool, int]:
        """Whether the ledger balances while everybody stands still, wherever it is; and the shares in flight."""
        seats = [seat for seat in range(len(self.processes)) if seat not in self.stopped_until]
        for seat in seats:
            self._send(seat, signal.SIGSTOP)
        ledger = audit(self.view, self.view.directory.founders)
        for seat in seats:
            self._send(seat, signal.SIGCONT)
        return ledger.balanced, ledger.in_flight

    def _send(self, seat: int, number: int) -> None:
        pid = self.processes[seat].pid
        assert pid is not None
        os.kill(pid, number)
        while number == signal.SIGSTOP and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.0002)

    def close(self) -> None:
        """Reap everything."""
        for process in self.processes:
            process.kill()
            process.join()
