"""A million messages through shared memory while processes are killed and stopped at random: torn, doubled, mass lost.

There is no model: members (benchmarks.herd) do nothing but push, merge, meet and bury. A restarted one joins.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import options, report
from benchmarks.fleet import job_directories
from benchmarks.herd import DIMENSION, GO, LEAVE, LEAVE_S, Herd, came_back, letter_of, signs_of
from benchmarks.report import Bar
from gossip import layout
from gossip.layout import FLAG, Member
from gossip.ledger import audit
from gossip.mail import Letter
from gossip.mass import TOTAL
from gossip.transports.view import View

MESSAGES = 1_000_000
WORKERS = 6
FAULT_EVERY, FREEZE_EVERY = 2_500, 5_000  # messages, on average
STOP_S = (0.02, 1.5)


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
        member = Member(seat, generation)
        if len(found) and not _said(view, member, letter_of(int(found[-1]))):
            found = found[:-1]
        back += came_back(found, member)
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
        logs, signs = Path(folder), signs_of(directory)
        herd = Herd(directory, logs, seed)
        try:
            found = disturb(herd, logs, messages, random.Random(seed))
            herd.resume(everybody=True)
            signs[0] = LEAVE
            deadline = time.monotonic() + 2 * LEAVE_S
            while sum(process.is_alive() for process in herd.processes) > 1 or not any(
                signs[1 + seat] for seat in range(workers)
            ):
                assert time.monotonic() < deadline, "members do not come to an end"
                time.sleep(0.01)
            ledger = audit(herd.view, workers)
            signs[0] = GO
            for process in herd.processes:
                process.join(LEAVE_S)
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
