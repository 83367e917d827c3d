"""What an exchange costs a training step: gossip beside no exchange, DDP, PeriodicModelAverager and PerSyn.

M real processes hold one training loop a variant and run them in turn, all of them the same one at the same time. The
floor of an exchange, one copy of the weights and one lerp from another process's memory, is timed in between.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from typing import Any, NamedTuple

import torch
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.nn.parallel import DistributedDataParallel

import gossip
from benchmarks import options, report
from benchmarks.fleet import Fleet, Signs, job_directories
from benchmarks.loops import NETWORKS, Loop, Timing, timed
from benchmarks.report import Bar, Spread, spread
from gossip.directory import JobDirectory, map_file
from gossip.flat import Flat
from gossip.job import Job

PERIOD = 10
RATES = {"gossip 0.01": 0.01, "gossip 0.1": 0.1, "gossip 0.4": 0.4, "gossip 1": 1.0}
COLLECTIVE = ["ddp", "averager", "persyn"]
VARIANTS = ["none", *COLLECTIVE, *RATES, "copy + lerp"]
BARS = {"gossip 0.1": 1.03, "gossip 0.4": 1.08, "gossip 1": 1.20}
OVERHEAD_S = 40e-6
IDLE_WORKERS = 8
IDLE_S = 10e-6
HEADER = [
    "variant",
    "step ms",
    "over none",
    "bar",
    "copy + lerp at rho",
    "own us a step",
    "1.5 rho floor + 40",
    "merged a step",
]
_NAMES = {
    "ddp": "DDP",
    "averager": f"PeriodicModelAverager {PERIOD}",
    "persyn": f"persyn tau={PERIOD}",
    "copy + lerp": "copy + lerp every step",
} | {name: name.replace("gossip ", "gossip rho=") for name in RATES}


class Round(NamedTuple):
    """One worker's part of one round of one variant.

    Attributes:
        merged: messages merged per step, for gossip.
    """

    timing: Timing
    merged: float


class Worker:
    """One process with a loop for every variant.

    Args:
        directories: of the process group and the floor, of persyn, and of gossip.
    """

    def __init__(self, rank: int, workers: int, network: str, directories: list[JobDirectory]) -> None:
        meeting = directories[0]
        jobs = [Job(rank, workers, rank, directory, supervised=True) for directory in directories]
        jobs[0].process_group(torch.device("cpu"))
        self._rank, self._workers, self._meeting = rank, workers, meeting
        self._signs = Signs(meeting.path / "signs", workers)
        self._network = NETWORKS[network]
        model = self._network.build()
        none, ddp, averaged, synchronous, gossiped, floor = (copy.deepcopy(model) for _ in range(6))
        averager = PeriodicModelAverager(period=PERIOD, warmup_steps=0)
        self._gossip = gossip.GoSGD(gossiped, job=jobs[2], seed=0, rho=0.0)
        self._loops = {
            "none": self._loop(none),
            "ddp": self._loop(ddp, module=DistributedDataParallel(ddp, gradient_as_bucket_view=True)),
            "averager": self._loop(averaged, exchange=lambda: averager.average_parameters(averaged.parameters())),
            "persyn": self._loop(synchronous, exchange=gossip.PerSyn(synchronous, job=jobs[1], tau=PERIOD).step),
            "gossip": self._loop(gossiped, exchange=self._gossip.step),
            "copy + lerp": self._loop(floor, exchange=self._copy_and_merge),
        }
        self._vector = Flat(floor).vector
        self._mine = self._slot(rank, create=True)
        self._mine.copy_(self._vector)
        self._theirs = self._mine

    def _loop(self, model: torch.nn.Module, **options: Any) -> Loop:
        return Loop(model, self._network.shape, self._rank, **options)

    def _slot(self, rank: int, create: bool = False) -> torch.Tensor:
        size = self._vector.numel() * self._vector.element_size()
        mapped: Any = map_file(self._meeting.path / f"floor-{rank}", size, create)
        return torch.frombuffer(mapped, dtype=self._vector.dtype)

    def _copy_and_merge(self) -> None:
        self._mine.copy_(self._vector)
        self._vector.lerp_(self._theirs, 0.5)

    def meet(self) -> int:
        """Map the next worker's memory; returns the number of parameters."""
        self._theirs = self._slot((self._rank + 1) % self._workers)
        return sum(parameter.numel() for parameter in self._network.build().parameters())

    def run(self, variant: str, warm_up: int, steps: int) -> Round:
        """One round of a variant, at the same time as every other worker."""
        loop = self._loops["gossip" if variant in RATES else variant]
        if variant in RATES:
            self._gossip.rho = RATES[variant]
        before, began = self._gossip.outbox.counters.received, self._gossip.steps
        timing = timed(loop.step, warm_up, steps, self._signs, self._rank, variant in COLLECTIVE)
        merged = self._gossip.outbox.counters.received - before
        return Round(timing, merged / max(1, self._gossip.steps - began))

    def floor(self, repeats: int) -> float:
        """Seconds of one copy and one lerp, over and over, at the same time as every other worker."""

        def step() -> float:
            self._copy_and_merge()
            return 0.0

        return timed(step, 3, repeats, self._signs, self._rank, collective=False).step


class Idle:
    """One of many workers that gossip at rate 0."""

    def __init__(self, rank: int, workers: int, directory: JobDirectory) -> None:
        model = NETWORKS["200k"].build()
        self._exchange = gossip.GoSGD(model, job=Job(rank, workers, rank, directory, supervised=True), rho=0.0)

    def start(self) -> None:
        """Wait until everybody is there."""
        self._exchange.start()

    def measure(self, calls: int) -> list[float]:
        """Seconds of each of `calls` steps that send nothing and receive nothing."""
        clock, step, taken = time.perf_counter, self._exchange.step, []
        for _ in range(calls):
            began = clock()
            step()
            taken.append(clock() - began)
        return taken


def measure(network: str, workers: int, rounds: int, steps: int) -> dict[str, Any]:
    """All variants in turn, `rounds` times, by `workers` processes; lists are [rounds][workers]."""
    steps = max(PERIOD, steps - steps % PERIOD)  # whole periods, so that both periodic methods meet equally often
    found: dict[str, Any] = {"model": network, "workers": workers, "steps": steps, "floor_s": []}
    found["variants"] = {variant: {"step_s": [], "exchange_s": [], "merged": []} for variant in VARIANTS}
    with job_directories(3, workers) as places, Fleet(workers, Worker, workers, network, places) as fleet:
        found["parameters"] = fleet.call("meet")[0]
        for turn in range(rounds):
            report.progress(f"{network}, {workers} workers: round {turn + 1} of {rounds}")
            for variant in VARIANTS:
                made: list[Round] = fleet.call("run", variant, PERIOD, steps)
                lists = found["variants"][variant]
                lists["step_s"].append([one.timing.step for one in made])
                lists["exchange_s"].append([one.timing.exchange for one in made])
                lists["merged"].append([one.merged for one in made])
            found["floor_s"].append(fleet.call("floor", steps))
    return found


def idle(workers: int, calls: int) -> dict[str, float]:
    """What `step()` costs one worker when nothing happens and all others sleep, in seconds."""
    with job_directories(1, workers) as (place,), Fleet(workers, Idle, workers, place) as fleet:
        fleet.call("start")
        taken = sorted(fleet.call_one(0, "measure", calls))
    return {
        "workers": workers,
        "calls": calls,
        "median_s": statistics.median(taken),
        "mean_s": statistics.fmean(taken),
        "p99_s": taken[int(0.99 * len(taken))],
    }


def flattened(nested: list[list[float]]) -> list[float]:
    """All rounds and workers in one list."""
    return [value for row in nested for value in row]


def ratios(found: dict[str, Any], variant: str, over: str = "none") -> Spread:
    """Step times over those of another variant by the same worker in the same round."""
    times, others = (flattened(found["variants"][name]["step_s"]) for name in (variant, over))
    return spread(mine / theirs for mine, theirs in zip(times, others, strict=True))


def show(found: dict[str, Any]) -> list[Bar]:
    """Print one model's table; returns the bars that apply to it."""
    workers, cpus = found["workers"], len(os.sched_getaffinity(0))
    floor, always = spread(flattened(found["floor_s"])), ratios(found, "copy + lerp")
    bars, rows = [], []
    for variant in VARIANTS:
        lists, ratio = found["variants"][variant], ratios(found, variant)
        own = spread(flattened(lists["exchange_s"]))
        label = f"{found['model']} M={workers} {_NAMES.get(variant, variant)}"
        limit = least = bound = merged = ""
        if variant in RATES:
            allowed = 1.5 * RATES[variant] * floor.median + OVERHEAD_S
            bound = f"{allowed * 1e6:.0f}"
            least = f"{1 + RATES[variant] * (always.median - 1):.3f}"
            merged = f"{statistics.fmean(flattened(lists['merged'])):.3f}"
            if (found["model"], workers) == ("7m", 2):
                bars.append(Bar(f"{label}: own time in us", "<=", allowed * 1e6, own.median * 1e6))
        if variant in BARS and (found["model"], workers) == ("7m", 2):
            limit = f"{BARS[variant]:.2f}"
            bars.append(Bar(f"{label}: step over none", "<=", BARS[variant], ratio.median))
        rows.append(
            [
                _NAMES.get(variant, variant),
                spread(flattened(lists["step_s"])).text(2, 1e3),
                ratio.text(3),
                limit,
                least,
                "" if variant in ("none", "ddp") else own.text(0, 1e6),
                bound,
                merged,
            ]
        )
    bars.append(
        Bar(
            f"{found['model']} M={workers}: step of persyn over PeriodicModelAverager, both every {PERIOD} steps",
            "<",
            1.0,
            ratios(found, "persyn", "averager").median,
        )
    )
    shared = f"; {workers} workers share {cpus} CPUs" if workers > cpus else ""
    print(
        f"\n{found['model']}: {NETWORKS[found['model']].described}, {found['parameters']:,} parameters, batch 16,"
        f" M = {workers}{shared}"
    )
    print(f"floor, one copy + one lerp by all workers at once: {floor.text(1, 1e6)} us")
    print(report.table(HEADER, rows))
    return bars


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("exchange", __doc__)
    parser.add_argument(
        "--models", type=options.some_of(NETWORKS), default="200k,7m,25m", help=f"of {', '.join(NETWORKS)}"
    )
    parser.add_argument("--workers", type=options.wholes(2), default="2,4", help="numbers of worker processes")
    parser.add_argument("--rounds", type=options.COUNT, default=10)
    parser.add_argument(
        "--steps", type=options.COUNT, default=100, help=f"timed steps a round, in multiples of {PERIOD}"
    )
    parser.add_argument(
        "--idle-workers", type=options.whole(0), default=IDLE_WORKERS, help="M of the idle step; 0 leaves it out"
    )
    parser.add_argument("--idle-calls", type=options.whole(2), default=20_000)
    given = parser.parse_args(arguments)
    if given.quick:
        small: dict[str, Any] = {"models": "200k", "workers": "2", "rounds": 2, "steps": 10, "idle_calls": 2000}
        given = argparse.Namespace(**{**vars(given), **small})
    found = report.machine()
    print(report.describe(found))
    results: dict[str, Any] = {"exchange": []}
    bars: list[Bar] = []
    for workers in map(int, given.workers.split(",")):
        for network in given.models.split(","):
            results["exchange"].append(measure(network, workers, given.rounds, given.steps))
            bars += show(results["exchange"][-1])
    if given.idle_workers:
        results["idle"] = idle(given.idle_workers, given.idle_calls)
        bars.append(
            Bar(
                f"idle step() at M = {given.idle_workers}, median in us",
                "<=",
                IDLE_S * 1e6,
                results["idle"]["median_s"] * 1e6,
            )
        )
    print()
    report.finish(given, found, results, bars)


if __name__ == "__main__":
    report.run(main)
