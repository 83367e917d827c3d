"""What becomes of the exchange when three of eight workers stand still: messages merged among the five others.

A local step is a fixed sleep, so that nobody gains from the processors that stopped workers leave free. Figures are
read from outside, off the words in shared memory. Averaging over all workers in every step runs beside it.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from itertools import pairwise
from typing import Any, NamedTuple

import torch

import gossip
from benchmarks import options, report
from benchmarks.fleet import Fleet, Signs, job_directories
from benchmarks.loops import NETWORKS
from benchmarks.report import Bar
from gossip import layout
from gossip.directory import JobDirectory
from gossip.job import Job
from gossip.layout import Member
from gossip.ledger import audit
from gossip.mass import TOTAL
from gossip.methods import Exchange
from gossip.transports.view import View

WORKERS, STOPPED = 8, 3
RHO = 0.4
STEP_S = 0.005
BAR = 0.9
PHASES = ["undisturbed", "stopped", "resumed"]
_SAMPLE_S = 1.0


class Worker:
    """One worker whose local step is a sleep.

    Args:
        directories: of the averaging in every step, and of gossip.
    """

    def __init__(self, rank: int, workers: int, directories: list[JobDirectory]) -> None:
        meeting, gossiping = (Job(rank, workers, rank, place, supervised=True) for place in directories)
        meeting.process_group(torch.device("cpu"))
        network = NETWORKS["200k"]
        self._exchanges: dict[str, Exchange] = {
            "gossip": gossip.GoSGD(network.build(), job=gossiping, seed=0, rho=RHO),
            "averaging": gossip.PerSyn(network.build(), job=meeting, tau=1),
        }
        self._limit = Signs(directories[0].path / "signs", 1)

    def work(self, method: str) -> None:
        """Step until the limit, which the one who looks on lowers in time."""
        exchange = self._exchanges[method]
        while exchange.steps < self._limit[0]:
            time.sleep(STEP_S)
            exchange.step()

    def close(self) -> int:
        """Leave gossip in good order; returns the shares held at the end."""
        self._exchanges["gossip"].close()
        return self._exchanges["gossip"].mass


class Look(NamedTuple):
    """The job at one instant.

    Attributes:
        merged: messages merged since the start, [sender][receiver].
        steps: local steps since the start, by worker.
        balanced: whether the ledger was, or None when mass moved too fast to audit it.
    """

    time: float
    merged: list[list[int]]
    steps: list[int]
    balanced: bool | None


def look(view: View, workers: int, ledger: bool) -> Look:
    """Read everybody's words; nobody notices."""
    words = [view.open(Member(seat, 0)) for seat in range(workers)]
    merged = [
        [
            layout.sequence_of(words[to][layout.receipt(view.seats, sender) + layout.ACKNOWLEDGED])
            for to in range(workers)
        ]
        for sender in range(workers)
    ]
    balanced: bool | None = None
    if ledger:
        try:
            balanced = audit(view, workers).balanced
        except TimeoutError:
            balanced = None
    return Look(time.monotonic(), merged, [own[layout.DONE] for own in words], balanced)


def watch(view: View, workers: int, seconds: float, ledger: bool = True) -> list[Look]:
    """Look on, once a second and at the end."""
    looks, end = [look(view, workers, ledger)], time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(_SAMPLE_S, left))
        looks.append(look(view, workers, ledger))
    return looks


def figures(looks: list[Look], staying: int) -> dict[str, Any]:
    """Rates per second over a phase.

    Args:
        staying: the workers 0 ... staying - 1 are the ones that are never stopped.
    """
    first, last = looks[0], looks[-1]
    seconds = last.time - first.time
    everybody = range(len(first.steps))
    pairs = [[last.merged[s][r] - first.merged[s][r] for r in everybody] for s in everybody]
    stay = range(staying)
    known = [one.balanced for one in looks if one.balanced is not None]
    return {
        "seconds": seconds,
        "pairs": pairs,
        "pairs_that_exchanged": sum(pairs[s][r] > 0 for s in everybody for r in everybody if s != r),
        "among_the_rest": sum(pairs[s][r] for s in stay for r in stay) / seconds,
        "merged_by_the_rest": sum(pairs[s][r] for s in everybody for r in stay) / seconds,
        "merged_by_all": sum(map(sum, pairs)) / seconds,
        "steps_of_the_rest": sum(last.steps[w] - first.steps[w] for w in stay) / seconds,
        "steps_of_the_stopped": sum(last.steps[w] - first.steps[w] for w in everybody if w not in stay) / seconds,
        "audits": len(known),
        "balanced": all(known),
        "among_the_rest_by_second": [
            sum(b.merged[s][r] - a.merged[s][r] for s in stay for r in stay) / (b.time - a.time)
            for a, b in pairwise(looks)
        ],
    }


def phases(fleet: Fleet, view: View, stopped: int, seconds: list[float], ledger: bool) -> dict[str, Any]:
    """Undisturbed, with the last `stopped` workers under SIGSTOP, and after SIGCONT."""
    workers = len(fleet.processes)
    victims = [process.pid for process in fleet.processes[workers - stopped :]]
    while any(count < 10 for count in look(view, workers, ledger=False).steps):
        time.sleep(0.05)
    found = {}
    for phase, length in zip(PHASES, seconds, strict=True):
        report.progress(f"{phase}: {length:.0f} s")
        if phase != "undisturbed":
            for pid in victims:
                assert pid is not None
                os.kill(pid, signal.SIGSTOP if phase == "stopped" else signal.SIGCONT)
        found[phase] = figures(watch(view, workers, length, ledger), workers - stopped)
    return found


def measure(workers: int, stopped: int, seconds: list[float], peer_seconds: float) -> dict[str, Any]:
    """The three phases under gossip, then, shorter, under averaging in every step."""
    with job_directories(2, workers) as places, Fleet(workers, Worker, workers, places) as fleet:
        limit, views = Signs(places[0].path / "signs", 1), [View(place) for place in places]
        found: dict[str, Any] = {"workers": workers, "stopped": stopped}
        limit[0] = 1 << 60
        fleet.send("work", "gossip")
        _appeared(views[1], workers)
        found["gossip"] = phases(fleet, views[1], stopped, seconds, ledger=True)
        limit[0] = 0
        fleet.collect()
        ledger = audit(views[1], workers)
        found["audit_at_rest"] = {"balanced": ledger.balanced, "in_flight": ledger.in_flight, "lost": ledger.lost}
        masses = fleet.call("close")
        found["mass_after_leaving"] = {"shares": masses, "whole": sum(masses) == TOTAL}
        if peer_seconds:
            limit[0] = 1 << 60
            fleet.send("work", "averaging")
            _appeared(views[0], workers)
            found["averaging"] = phases(fleet, views[0], stopped, [peer_seconds] * 3, ledger=False)
            # All are within one step of each other: they reach the same limit without any of them being left alone.
            limit[0] = max(look(views[0], workers, ledger=False).steps) + 20
            fleet.collect()
    return found


def _appeared(view: View, workers: int) -> None:
    while len(view.members()) < workers:
        time.sleep(0.01)


def show(found: dict[str, Any]) -> list[Bar]:
    """Print the table; returns the bars."""
    workers, rest = found["workers"], found["workers"] - found["stopped"]
    rows = []
    for method in [name for name in ("gossip", "averaging") if name in found]:
        for phase in PHASES:
            one = found[method][phase]
            rates = [one["among_the_rest"], one["merged_by_the_rest"], one["merged_by_all"]]
            pairs, all_pairs = one["pairs_that_exchanged"], workers * (workers - 1)
            gossiped = method == "gossip"
            rows.append(
                [
                    f"gossip rho={RHO}, {phase}" if gossiped else f"averaging every step, {phase}",
                    f"{one['seconds']:.0f}",
                    *(f"{rate:.1f}" if gossiped else "" for rate in rates),
                    f"{rates[0] / (rest * (rest - 1)):.2f}" if gossiped else "",
                    f"{one['steps_of_the_rest']:.0f}",
                    f"{one['steps_of_the_stopped']:.0f}",
                    f"{pairs}/{all_pairs}" if gossiped else "",
                    f"{'yes' if one['balanced'] else 'NO'} ({one['audits']})" if gossiped else "",
                ]
            )
    print(
        f"\nM = {workers}, {found['stopped']} of them stopped, a local step sleeps {STEP_S * 1e3:.0f} ms; per second:"
    )
    header = [
        "phase",
        "s",
        f"merged among the {rest}",
        f"by the {rest} from all",
        "by all",
        f"a pair of the {rest}",
        f"steps of the {rest}",
        "of the others",
        "pairs active",
        "ledger balanced (audits)",
    ]
    print(report.table(header, rows))
    rest_ledger, whole = found["audit_at_rest"], found["mass_after_leaving"]["whole"]
    print(
        f"at rest: ledger balanced: {rest_ledger['balanced']}, shares lost: {rest_ledger['lost']};"
        f" after leaving, the whole mass with the last worker: {whole}\n"
    )
    undisturbed, stopped, resumed = (found["gossip"][phase] for phase in PHASES)
    names = {"among_the_rest": f"messages among the {rest}", "merged_by_the_rest": f"messages merged by the {rest}"}
    bars = [
        Bar(f"{what}, stopped over undisturbed", ">=", BAR, stopped[k] / undisturbed[k]) for k, what in names.items()
    ]
    pairs = workers * (workers - 1)
    bars.append(Bar("ordered pairs that exchange after SIGCONT", ">=", pairs, resumed["pairs_that_exchanged"]))
    return bars


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("stopped_workers", __doc__)
    parser.add_argument("--workers", type=options.whole(3), default=WORKERS)
    parser.add_argument("--stopped", type=options.COUNT, default=STOPPED)
    parser.add_argument(
        "--seconds",
        type=options.above_zero,
        nargs=3,
        default=[60.0, 60.0, 20.0],
        metavar="S",
        help="of each phase",
    )
    parser.add_argument(
        "--peer-seconds", type=options.at_least_zero, default=10.0, help="of each phase of averaging; 0 leaves it out"
    )
    given = parser.parse_args(arguments)
    if given.stopped > given.workers - 2:
        parser.error(f"--stopped: got {given.stopped} of {given.workers} workers, expected two or more to be left")
    if given.quick:
        given = argparse.Namespace(**{**vars(given), "seconds": [2.0, 2.0, 1.0], "peer_seconds": 1.0})
    found = report.machine()
    print(report.describe(found))
    results = measure(given.workers, given.stopped, given.seconds, given.peer_seconds)
    report.finish(given, found, results, show(results))


if __name__ == "__main__":
    report.run(main)
