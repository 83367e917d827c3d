"""What one slow worker costs the other: gossip beside fully synchronous training, M = 2, one worker a core.

After each of its steps the slow worker sleeps four times as long as the step took. A sleeping neighbour also leaves a
machine faster: the loop without any exchange, slowed in the same way, shows by how much.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from typing import Any, NamedTuple

import torch

import gossip
from benchmarks import options, report
from benchmarks.fleet import Fleet, Signs, job_directories
from benchmarks.loops import BATCH_SIZE, NETWORKS, Loop
from benchmarks.report import Bar, Spread, spread
from gossip.directory import JobDirectory
from gossip.job import Job

METHODS = ["none", "gossip", "fully_sync"]
RHO = 0.1
SLEEP = 4.0  # times the step: five times slower
BAR = 0.97
_WARM_UP = 5


class Pace(NamedTuple):
    """Steps per second of one worker in one round."""

    steps_per_second: float
    steps: int


class Worker:
    """One process, on a core of its own, with a loop for each method.

    Args:
        directories: of fully_sync, and of gossip.
    """

    def __init__(self, rank: int, directories: list[JobDirectory], cpu: int | None) -> None:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        synchronous, gossiping = (Job(rank, 2, rank, place, supervised=True) for place in directories)
        synchronous.process_group(torch.device("cpu"))
        self._rank, self._finished = rank, Signs(directories[0].path / "signs", 2)
        network = NETWORKS["200k"]
        models = {method: copy.deepcopy(network.build()) for method in METHODS}
        together = gossip.FullySync(models["fully_sync"], job=synchronous)
        apart = gossip.GoSGD(models["gossip"], job=gossiping, seed=0, rho=RHO)
        self._loops = {
            "none": Loop(models["none"], network.shape, rank),
            "gossip": Loop(models["gossip"], network.shape, rank, exchange=apart.step),
            "fully_sync": Loop(
                models["fully_sync"],
                network.shape,
                rank,
                module=together.wrap(models["fully_sync"]),
                exchange=together.step,
            ),
        }

    def run(self, method: str, steps: int, slow: bool) -> Pace:
        """Train until worker 0 has made `steps` steps; worker 1 is slowed where `slow` says so."""
        loop, turn = self._loops[method], self._finished[0] + 1
        slow = slow and self._rank == 1
        for _ in range(_WARM_UP):
            loop.step()
        # Where the workers meet in each step, both make equally many; where they do not, worker 0 ends the round.
        follows = self._rank == 1 and method != "fully_sync"
        began, made = time.perf_counter(), 0
        while made < 1 or (self._finished[0] < turn if follows else made < steps):
            self._step(loop, slow)
            made += 1
        pace = Pace(made / (time.perf_counter() - began), made)
        if self._rank == 0:
            self._finished.count(0)
        return pace

    def _step(self, loop: Loop, slow: bool) -> None:
        began = time.perf_counter()
        loop.step()
        if slow:
            time.sleep(SLEEP * (time.perf_counter() - began))


def measure(rounds: int, steps: int) -> dict[str, Any]:
    """Steps per second of both workers, [rounds][worker], by method and condition."""
    cpus = sorted(os.sched_getaffinity(0))
    pinned = cpus[:2] if len(cpus) > 1 else [None, None]
    found: dict[str, Any] = {"pinned_to": pinned, "paces": {m: {"undisturbed": [], "slowed": []} for m in METHODS}}
    with job_directories(2, 2) as places, Fleet(2, _worker, places, pinned) as fleet:
        for turn in range(rounds):
            report.progress(f"round {turn + 1} of {rounds}")
            for method in METHODS:
                count = max(1, steps // 5) if method == "fully_sync" else steps
                conditions = ["undisturbed", "slowed"]
                for condition in conditions if turn % 2 else reversed(conditions):
                    made: list[Pace] = fleet.call("run", method, count, condition == "slowed")
                    found["paces"][method][condition].append([pace.steps_per_second for pace in made])
    return found


def _worker(rank: int, directories: list[JobDirectory], cpus: list[int | None]) -> Worker:
    return Worker(rank, directories, cpus[rank])


def show(found: dict[str, Any]) -> list[Bar]:
    """Print the table; returns the bars."""
    rows, kept = [], {}
    for method in METHODS:
        undisturbed, slowed = (found["paces"][method][condition] for condition in ("undisturbed", "slowed"))
        kept[method] = _kept(undisturbed, slowed, 0)
        rows.append(
            [
                f"gossip rho={RHO}" if method == "gossip" else method,
                _samples(undisturbed, 0),
                _samples(slowed, 0),
                kept[method].text(3),
                _kept(undisturbed, slowed, 1).text(3),
            ]
        )
    where = f"CPUs {found['pinned_to']}" if found["pinned_to"][0] is not None else "one CPU: nothing could be pinned"
    print(f"\n200k: {NETWORKS['200k'].described}, batch {BATCH_SIZE}, M = 2, one worker a core ({where})")
    header = ["method", "worker 0, samples/s", "worker 1 slowed five times", "worker 0 keeps", "worker 1 keeps"]
    print(report.table(header, rows))
    print()
    return [
        Bar("worker 0 under gossip, slowed over undisturbed", ">=", BAR, kept["gossip"].median),
        Bar("worker 0 under fully_sync, at the pace of the slow one", "<=", 1 / (1 + SLEEP), kept["fully_sync"].median),
    ]


def _kept(undisturbed: list[list[float]], slowed: list[list[float]], rank: int) -> Spread:
    return spread(late[rank] / early[rank] for early, late in zip(undisturbed, slowed, strict=True))


def _samples(paces: list[list[float]], rank: int) -> str:
    return spread(pace[rank] for pace in paces).text(0, BATCH_SIZE)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("slow_worker", __doc__)
    parser.add_argument("--rounds", type=options.COUNT, default=20)
    parser.add_argument(
        "--steps", type=options.COUNT, default=200, help="steps of worker 0 a round, a fifth for fully_sync"
    )
    given = parser.parse_args(arguments)
    if given.quick:
        given = argparse.Namespace(**{**vars(given), "rounds": 2, "steps": 20})
    found = report.machine()
    print(report.describe(found))
    results = measure(given.rounds, given.steps)
    report.finish(given, found, results, show(results))


if __name__ == "__main__":
    report.run(main)
