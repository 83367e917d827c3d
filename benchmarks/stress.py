"""A million messages through shared memory while processes are killed and stopped at random: torn, doubled, mass lost.

There is no model: members do nothing but push, merge, meet and bury. Every element of a message holds its identity
(who to whom, the how-manieth), so a torn one shows. Who merges one writes its identity to a file of its own, outside of
the transport, so that one merged twice shows as well, even when it came back to its sender. A restarted member joins.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import random
import signal
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import options, report
from benchmarks.fleet import Signs, job_directories
from benchmarks.report import Bar
from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import FLAG, Member, State
from gossip.leaving import depart, inherit
from gossip.ledger import audit
from gossip.mail import Letter
from gossip.mass import SCANT, TOTAL, halve, share_out
from gossip.outbox import Outbox
from gossip.transports.shared_memory import SharedMemory
from gossip.transports.view import View

MESSAGES = 1_000_000
WORKERS, DIMENSION, SLOTS = 6, 4096, 4
FAULT_EVERY, FREEZE_EVERY = 2_500, 5_000  # messages, on average
STOP_S = (0.02, 1.5)
_SEAT_BITS, _GENERATION_BITS, _SEQUENCE_BITS = 6, 14, 23
_INSPECTION_S = 0.1
_LEAVE_S = 60.0
_LEAVE, _GO = 1, 2


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
        while signs[0] < _LEAVE:
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
        deadline = time.monotonic() + _LEAVE_S
        while (last := depart(self._outbox, self._step, self._write, self._merge)) is None:
            assert time.monotonic() < deadline, "nobody took over"
            time.sleep(0.0005)
        if last:
            signs[1 + self._me.seat] = 1
            while signs[0] < _GO:
                time.sleep(0.001)
        self._transport.close()

    def _write(self, slot: Tensor, letter: Letter) -> None:
        slot.fill_(identity(letter))

    def _merge(self, slot: Tensor, weight: float, step: int, letter: Letter) -> None:
        number = identity(letter)
        if not bool((slot == number).all()) or not 0 < weight <= 1:
            os.write(self._torn, number.to_bytes(8, "little"))
        os.write(self._log, number.to_bytes(8, "little"))


def _signs(directory: JobDirectory) -> Signs:
    """What everybody is to do, and behind it a word a seat: whether it is the last and done."""
    return Signs(directory.path / "signs", 1 + directory.seats)


def _live(directory: JobDirectory, seat: int, logs: Path, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    logging.getLogger("gosgd").setLevel(logging.ERROR)  # of stopped members everybody's pool grows
    life = Life(directory, seat, logs, seed)
    signs = _signs(directory)
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


def merged_so_far(logs: Path) -> int:
    """Messages merged by anybody."""
    return sum(file.stat().st_size for file in logs.glob("*.merged")) // 8


def counted(view: View, logs: Path) -> dict[str, int]:
    """Torn and doubled messages, and who merged how many.

    A member that was killed between merging a message and saying so took the merge with it, so what it noted last does
    not count unless its words say so.
    """
    numbers, back = [], 0
    for file in logs.glob("*.merged"):
        seat, generation = map(int, file.stem.split("-"))
        found = np.frombuffer(file.read_bytes(), dtype=np.int64)
        if len(found) and not _said(view, Member(seat, generation), letter_of(int(found[-1]))):
            found = found[:-1]
        sender = found >> (_SEAT_BITS + _GENERATION_BITS + _SEQUENCE_BITS)
        back += int((sender == (seat << _GENERATION_BITS | generation)).sum())
        numbers.append(found)
    everything = np.concatenate(numbers)
    torn = sum(file.stat().st_size for file in logs.glob("*.torn")) // 8
    doubled = len(everything) - len(np.unique(everything))
    return {"merged": len(everything), "torn": torn, "doubled": doubled, "of them returned": back}


def _said(view: View, member: Member, letter: Letter) -> bool:
    words = view.open(member)
    if letter.sender == member:
        word = words[layout.post(letter.receiver.seat) + layout.COMMIT]
        return bool(word & FLAG) or layout.sequence_of(word) > letter.sequence
    receipt = words[layout.receipt(view.seats, letter.sender.seat) + layout.ACKNOWLEDGED] & ~FLAG
    return receipt >= layout.pack(letter.sequence, letter.sender.generation)


def disturb(herd: Herd, logs: Path, messages: int, generator: random.Random) -> dict[str, Any]:
    """Kill and stop until `messages` were merged; looks at the ledger at frozen instants, and in between."""
    seats = range(len(herd.processes))
    began = said = time.monotonic()
    fault = freeze = 0.0
    frozen, in_flight, moving = [], 0, []
    while (merged := merged_so_far(logs)) < messages:
        now = time.monotonic()
        herd.resume()
        if merged >= fault:
            fault += generator.expovariate(1 / FAULT_EVERY)
            kind = generator.random()
            if kind < 0.5:
                herd.stop(generator.choice(seats), generator.uniform(*STOP_S))
            elif kind < 0.95:
                victim = generator.choice(seats)
                herd.kill([victim])
                if generator.random() < 0.3:  # again, while it starts or joins
                    time.sleep(generator.random() * 0.3)
                    herd.kill([victim])
            else:
                herd.kill(generator.sample(seats, len(seats) // 2))
        if merged >= freeze:
            freeze += generator.expovariate(1 / FREEZE_EVERY)
            balanced, flying = herd.frozen_ledger()
            frozen.append(balanced)
            in_flight += flying > 0
            with contextlib.suppress(TimeoutError):  # mass moves too fast here and there: then frozen instants judge
                moving.append(audit(herd.view, herd.view.directory.founders, attempts=1000).balanced)
        if now - said > 10:
            said = now
            report.progress(f"{merged:,} messages, {herd.done['kills']} kills, {now - began:.0f} s")
        time.sleep(generator.random() * 0.02)
    return {
        "seconds": time.monotonic() - began,
        "frozen instants": len(frozen),
        "with mail in flight": in_flight,
        "looks while moving": len(moving),
        "balanced": sum(frozen) + sum(moving),
    }


def measure(messages: int, workers: int, seed: int) -> dict[str, Any]:
    """The whole stress, to the last member's leaving."""
    with job_directories(1, workers) as (directory,), tempfile.TemporaryDirectory() as folder:
        logs, signs = Path(folder), _signs(directory)
        herd = Herd(directory, logs, seed)
        try:
            found = disturb(herd, logs, messages, random.Random(seed))
            herd.resume(everybody=True)
            signs[0] = _LEAVE
            deadline = time.monotonic() + 2 * _LEAVE_S
            while sum(process.is_alive() for process in herd.processes) > 1 or not any(
                signs[1 + seat] for seat in range(workers)
            ):
                assert time.monotonic() < deadline, "members do not come to an end"
                time.sleep(0.01)
            ledger = audit(herd.view, workers)
            signs[0] = _GO
            for process in herd.processes:
                process.join(_LEAVE_S)
            found["left in good order"] = sum(process.exitcode == 0 for process in herd.processes)
            found |= {"members": sum(herd.view.generations()), **herd.done, **counted(herd.view, logs)}
            found["at the end"] = {
                "balanced": ledger.balanced,
                "in flight": ledger.in_flight,
                "held": sum(ledger.held.values()) / TOTAL,
                "lost": (ledger.lost + ledger.taken) / TOTAL,
                "issued again": ledger.taken / TOTAL,
            }
        finally:
            herd.close()
    return found | {"workers": workers, "bytes a message": 8 * DIMENSION}


def show(found: dict[str, Any]) -> list[Bar]:
    """Print the table; returns the bars."""
    rows = [
        [name, f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"]
        for name, value in found.items()
        if not isinstance(value, dict)
    ]
    print(report.table(["what", "measured"], rows))
    print(f"at the end: {found['at the end']}\n")
    looks = found["frozen instants"] + found["looks while moving"] + 1
    whole = found["merged"] - found["torn"] - found["doubled"]
    return [
        Bar("messages merged whole and once, of those merged", ">=", 1.0, whole / found["merged"]),
        Bar(
            "looks at the ledger that found an equality",
            ">=",
            1.0,
            (found["balanced"] + found["at the end"]["balanced"]) / looks,
        ),
        Bar("messages merged", ">=", MESSAGES, found["merged"]),
        Bar("kills", ">=", 1, found["kills"]),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("stress", __doc__)
    parser.add_argument("--messages", type=options.COUNT, default=MESSAGES)
    parser.add_argument("--workers", type=options.whole(2), default=WORKERS)
    parser.add_argument("--seed", type=options.whole(0), default=0, help="of the faults")
    given = parser.parse_args(arguments)
    if given.quick:
        given = argparse.Namespace(**{**vars(given), "messages": min(given.messages, 10_000), "workers": 3})
    found = report.machine()
    print(report.describe(found))
    results = measure(given.messages, given.workers, given.seed)
    report.finish(given, found, results, show(results))


if __name__ == "__main__":
    report.run(main)
