"""What gossip costs a step of workers that share a GPU, beside no exchange and DDP. Imports gossip.

Each process holds one loop a variant, and all run the same one at a time. The clock stops when the device is done.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import gossip
from benchmarks import report
from benchmarks.fleet import Fleet, Signs, job_directories
from benchmarks.loops import CLASSES, NETWORKS
from benchmarks.report import Bar, spread
from gossip.directory import JobDirectory
from gossip.job import Job
from gossip.transports.device_memory import DeviceMemory

RATES = {"gossip 0.01": 0.01, "gossip 0.1": 0.1, "gossip 0.4": 0.4, "gossip 1": 1.0}
BARS = {"gossip 0.01": 1.01, "gossip 0.1": 1.03, "gossip 0.4": 1.08, "gossip 1": 1.20}
_WARM_UP = 10
_LEARNING_RATE = 1e-3


class Loop:
    """Plain SGD on one batch that stays on the device.

    Args:
        model: on its device.
        shape: of a sample.
        batch: samples of a step.
        module: what to call, if not the model itself.
        exchange: called after every step.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, ...],
        batch: int,
        module: nn.Module | None = None,
        exchange: gossip.Exchange | None = None,
    ) -> None:
        device = next(model.parameters()).device
        self._module, self._exchange = module or model, exchange
        self.optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE, fused=True)
        self._x = torch.randn(batch, *shape, device=device)
        self._y = torch.randint(CLASSES, (batch,), device=device)
        if exchange is not None:
            exchange.overlap(self.optimizer)

    def step(self) -> None:
        """One step of training."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(functional.cross_entropy(self._module(self._x), self._y))
        self.optimizer.step()
        if self._exchange is not None:
            self._exchange.step()


class Round(NamedTuple):
    """One worker's part of one round of one variant: seconds a step, messages merged a step."""

    step_s: float
    merged: float


class Worker:
    """One process with a loop for every variant.

    Args:
        directories: of the process group, and of gossip.
    """

    def __init__(
        self, rank: int, workers: int, network: str, kind: str, batch: int, directories: list[JobDirectory]
    ) -> None:
        self._device = torch.device(kind, 0) if kind != "cpu" else torch.device("cpu")
        jobs = [Job(rank, workers, rank, directory, supervised=True, sharing=workers) for directory in directories]
        self._rank, self._signs = rank, Signs(directories[0].path / "signs", workers)
        chosen = NETWORKS[network]
        model = chosen.build().to(self._device)
        none, parallel, gossiped = (copy.deepcopy(model) for _ in range(3))
        self._gossip = gossip.GoSGD(gossiped, job=jobs[1], seed=0, rho=0.0)
        self._loops = {
            "none": Loop(none, chosen.shape, batch),
            "gossip": Loop(gossiped, chosen.shape, batch, exchange=self._gossip),
        }
        self.missing = ""
        try:
            jobs[0].process_group(self._device)
            module = DistributedDataParallel(parallel, gradient_as_bucket_view=True)
            self._loops["ddp"] = Loop(parallel, chosen.shape, batch, module)
        except RuntimeError as error:  # a build without gloo for this device
            self.missing = f"DDP: {str(error).partition(chr(10))[0]}"

    def about(self) -> tuple[int, bool, str]:
        """Elements of the vector, whether slots lie in device memory, and what is missing; begins to gossip."""
        self._gossip.start()
        return self._gossip.flat.dimension, isinstance(self._gossip.transport, DeviceMemory), self.missing

    def run(self, variant: str, steps: int) -> Round:
        """One round of a variant, at the same time as every other worker."""
        loop = self._loops[variant.partition(" ")[0]]
        if variant in RATES:
            self._gossip.rho = RATES[variant]
        for _ in range(_WARM_UP):
            loop.step()
        self._wait()
        before, began = self._gossip.outbox.counters.received, time.perf_counter()
        for _ in range(steps):
            loop.step()
        self._wait()
        seconds = (time.perf_counter() - began) / steps
        merged = (self._gossip.outbox.counters.received - before) / steps
        turn = self._signs.count(self._rank)
        while variant != "ddp" and not self._signs.reached(turn):
            loop.step()  # the last of them is to have company until it has been timed
            self._wait()
        return Round(seconds, merged)

    def _wait(self) -> None:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)

    def host(self, steps: int) -> float:
        """Seconds of the host in an `exchange.step()` that pushes every time, the device's own work aside."""
        self._gossip.rho = 1.0
        spent, loop = 0.0, self._loops["gossip"]
        step: Callable[[], None] = self._gossip.step
        for _ in range(steps):
            self._wait()
            began = time.perf_counter()
            step()
            spent += time.perf_counter() - began
            loop.optimizer.step()
        return spent / steps


def measure(device: torch.device, network: str, workers: int, batch: int, rounds: int, steps: int) -> dict[str, Any]:
    """All variants in turn, `rounds` times; lists are [rounds][workers]."""
    found: dict[str, Any] = {"model": network, "workers": workers, "batch": batch, "steps": steps}
    with (
        job_directories(2, workers) as places,
        Fleet(workers, Worker, workers, network, device.type, batch, places) as fleet,
    ):
        said = fleet.call("about")
        found["dimension"], found["device_slots"], found["missing"] = said[0]
        variants = ["none", *([] if found["missing"] else ["ddp"]), *RATES]
        found["variants"] = {variant: {"step_s": [], "merged": []} for variant in variants}
        for turn in range(rounds):
            report.progress(f"{network}, {workers} workers: round {turn + 1} of {rounds}")
            for variant in variants:
                made: list[Round] = fleet.call("run", variant, steps)
                found["variants"][variant]["step_s"].append([one.step_s for one in made])
                found["variants"][variant]["merged"].append([one.merged for one in made])
        found["host_s"] = fleet.call("host", steps)
    return found


def show(found: dict[str, Any]) -> list[Bar]:
    """Print one model's table; returns its bars."""
    flat = {v: [s for row in lists["step_s"] for s in row] for v, lists in found["variants"].items()}
    bars, rows = [], []
    for variant, times in flat.items():
        ratio = spread(mine / none for mine, none in zip(times, flat["none"], strict=True))
        merged = statistics.fmean(value for row in found["variants"][variant]["merged"] for value in row)
        if variant in BARS:
            bars.append(Bar(f"{found['model']} {variant}: step over none", "<=", BARS[variant], ratio.median))
        bar = f"{BARS[variant]:.2f}" if variant in BARS else ""
        rows.append(
            [variant, spread(times).text(3, 1e3), ratio.text(3), bar, f"{merged:.3f}" if variant in RATES else ""]
        )
    slots = "device memory" if found["device_slots"] else "the host's memory"
    print(
        f"\n{found['model']}: {found['dimension']:,} elements, batch {found['batch']}, {found['workers']} workers on"
        f" one device, slots in {slots}; host's part of a step that pushes:"
        f" {spread(found['host_s']).text(0, 1e6)} us"
    )
    print(report.table(["variant", "step ms", "over none", "bar", "merged a step"], rows))
    if found["missing"]:
        print(f"left out: {found['missing']}")
    return bars
