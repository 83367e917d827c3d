"""What the trainer's step costs over the same loop written by hand, for the 200K CNN at batch 16, in one process.

Both train one model each on the same random images of CIFAR's shape, in blocks that take turns. The hand-written loop
indexes a tensor, runs forward and backward, steps the fused optimizer, and measures nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import gossip
from benchmarks import options, report
from benchmarks.fleet import job_directories
from benchmarks.loops import BATCH_SIZE, CLASSES, NETWORKS
from benchmarks.peers.worker import timed
from benchmarks.report import Bar, spread
from gossip.job import Job
from trainers.data.augment import Augment
from trainers.data.base import Batches
from trainers.data.sampled import SampledData
from trainers.data.sources import Sets, TensorSource
from trainers.local import LocalTrainer
from trainers.metrics import Metrics
from trainers.schema import Run

SAMPLES = 4096
LOG_EVERY = 50
BAR = 1.05
_LEARNING_RATE = 1e-3


def images(side: int) -> TensorSource:
    """Random 8-bit images [N, 3, side, side] with random classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (SAMPLES, 3, side, side), dtype=torch.uint8, generator=generator)
    return TensorSource(x, torch.randint(CLASSES, (SAMPLES,), generator=generator))


def batches(side: int, augment: Augment | None = None) -> Batches:
    """The trainer's stream of batches of these images."""
    source = images(side)
    data = SampledData(
        Sets(source, source, CLASSES), batch_size=BATCH_SIZE, eval_batch_size=1000, augment=augment, normalize=True
    )
    return data.batches(rank=0, world_size=1, seed=0)


class ByHand:
    """The loop a user would write: every line of it is needed."""

    def __init__(self, model: nn.Module) -> None:
        source = images(28)
        self.x, self.y = source.x.float().div_(255).sub_(0.5), source.y
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE, fused=True)
        self.order = torch.empty(0, dtype=torch.long)
        self.at = 0

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next batch of a random order."""
        if self.at + BATCH_SIZE > len(self.order):
            self.order, self.at = torch.randperm(SAMPLES), 0
        here = self.order[self.at : self.at + BATCH_SIZE]
        self.at += BATCH_SIZE
        return self.x[here], self.y[here]

    def step(self) -> None:
        """One step of training."""
        x, y = self.batch()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(functional.cross_entropy(self.model(x), y))
        self.optimizer.step()


class Trained:
    """The trainer's step, with an exchange that does nothing, as a worker calls them."""

    def __init__(self, job: Job) -> None:
        run = Run.model_validate(
            {
                "name": "benchmark",
                "data": {"name": "digits"},
                "model": {"name": "cnn"},
                "optimizer": {"name": "sgd", "lr": _LEARNING_RATE},
                "exchange": {"method": "none"},
                "train": {"steps": 1_000_000},
            }
        )
        model = NETWORKS["200k"].build()
        self.exchange = gossip.build("none", model, job=job)
        self.exchange.start()
        self.local = LocalTrainer(run, self.exchange.wrap(model), model, batches(28), torch.device("cpu"))

    def step(self) -> None:
        """One step of training."""
        self.local.step(self.exchange.steps)
        self.exchange.step()

    def log(self, metrics: Metrics) -> None:
        """A line of metrics."""
        metrics.write(self.exchange.steps, {**self.local.figures(), "exchange": self.exchange.stats()})


def measure(rounds: int, steps: int) -> dict[str, Any]:
    """Both loops in turn, and the trainer's parts on their own; seconds a step, one figure a round."""
    with job_directories(1, 1) as (place,), tempfile.TemporaryDirectory() as folder:
        hand = ByHand(NETWORKS["200k"].build())
        trained = Trained(Job(0, 1, 0, place, supervised=True))
        metrics = Metrics(Path(folder) / "metrics.jsonl", None)
        moving = batches(32, Augment(crop=28, flip=True))
        local, count = trained.local, iter(range(10**9))
        parts: dict[str, Callable[[], object]] = {
            "data, by hand": hand.batch,
            "data, trainer": lambda: next(local.batches),
            "data, trainer, with crops and flips": lambda: next(moving),
            "learning rate": lambda: local.learning_rate.set(next(count)),
            "exchange none": trained.exchange.step,
            f"line of metrics, 1/{LOG_EVERY} of it": lambda: trained.log(metrics),
        }
        found: dict[str, Any] = {"hand_s": [], "trainer_s": [], "parts_s": {name: [] for name in parts}}
        loops = {"hand_s": hand.step, "trainer_s": trained.step}
        for loop in loops.values():
            timed(loop, 20)
        for turn in range(rounds):
            for name in list(loops) if turn % 2 else list(loops)[::-1]:
                found[name].append(timed(loops[name], steps))
            for name, part in parts.items():
                share = LOG_EVERY if name.startswith("line") else 1
                found["parts_s"][name].append(timed(part, steps) / share)
        metrics.close()
        trained.exchange.close()
    return found


def show(found: dict[str, Any]) -> list[Bar]:
    """Print what was measured; returns the bar."""
    hand, ours = spread(found["hand_s"]), spread(found["trainer_s"])
    ratio = spread(mine / theirs for mine, theirs in zip(found["trainer_s"], found["hand_s"], strict=True))
    parts = {name: spread(values) for name, values in found["parts_s"].items()}
    extra = spread(mine - theirs for mine, theirs in zip(found["trainer_s"], found["hand_s"], strict=True)).median
    known = parts["data, trainer"].median - parts["data, by hand"].median
    known += parts["learning rate"].median + parts["exchange none"].median
    rows = [
        ["by hand", hand.text(0, 1e6), f"{BATCH_SIZE / hand.median:.0f}", "1.000"],
        ["trainer", ours.text(0, 1e6), f"{BATCH_SIZE / ours.median:.0f}", ratio.text(3)],
    ]
    print(f"\n200k: {NETWORKS['200k'].described}, batch {BATCH_SIZE}, one process, SGD with the fused kernel")
    print(report.table(["loop", "us a step", "samples/s", "over by hand"], rows))
    print("\nWhere the difference goes, each part run on its own:")
    shares = [
        *((name, part.median) for name, part in parts.items()),
        ("trainer less by hand", extra),
        ("  of it metrics, loss and the rest", extra - known),
    ]
    table = [[name, f"{value * 1e6:.1f}", f"{value / hand.median:.2%}"] for name, value in shares]
    print(report.table(["part", "us a step", "of the step by hand"], table))
    print()
    return [Bar("trainer's step over the step by hand", "<=", BAR, ratio.median)]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("trainer", __doc__)
    parser.add_argument("--rounds", type=options.COUNT, default=40)
    parser.add_argument("--steps", type=options.COUNT, default=50, help="steps a round of each loop")
    given = parser.parse_args(arguments)
    if given.quick:
        given = argparse.Namespace(**{**vars(given), "rounds": 3, "steps": 10})
    found = report.machine()
    print(report.describe(found))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = measure(given.rounds, given.steps)
    finally:
        torch.set_num_threads(threads)
    report.finish(given, found, results, show(results))


if __name__ == "__main__":
    report.run(main)
