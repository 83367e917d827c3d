"""The trainer's step beside a loop by hand, and regularizers over the plain step, on a device. Imports trainers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import gossip
from benchmarks import regularizers, report
from benchmarks.fleet import job_directories
from benchmarks.loops import CLASSES
from benchmarks.report import Bar, spread
from gossip.job import Job
from regularizers import Regularizer
from trainers import models
from trainers.data.sampled import SampledData
from trainers.data.sources import Sets, TensorSource
from trainers.local import LocalTrainer, compiled, in_channels_last
from trainers.models import CnnConfig, ModelConfig, WideResNetConfig
from trainers.schema import Run

TRAINER_BAR = 0.98
REGULARIZER_BAR = 1.05
SAMPLES = 10_000
MODELS: dict[str, ModelConfig] = {"cnn": CnnConfig(), "wide_resnet": WideResNetConfig()}
_SHAPE = (3, 32, 32)
_LEARNING_RATE = 1e-3


def images() -> TensorSource:
    """Random 8-bit images with random classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (SAMPLES, *_SHAPE), dtype=torch.uint8, generator=generator)
    return TensorSource(x, torch.randint(CLASSES, (SAMPLES,), generator=generator))


def build(name: str, device: torch.device) -> nn.Module:
    """The model in the layout that convolutions want."""
    torch.manual_seed(0)
    return in_channels_last(models.build(MODELS[name], _SHAPE, CLASSES).to(device))


class ByHand:
    """The loop a user would write for speed: data resident on the device, bfloat16, channels last, fused SGD."""

    def __init__(self, name: str, device: torch.device, batch: int, compile_it: bool) -> None:
        source = images()
        x = source.x.to(device).float().div_(255).sub_(0.5)
        self._x, self._y = x.contiguous(memory_format=torch.channels_last), source.y.to(device)
        model = build(name, device)
        self._kind, self._batch = device.type, batch
        self._model = compiled(model, compile_it)
        self._optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE, fused=True)
        self._order, self._at = torch.empty(0, dtype=torch.long, device=device), 0

    def step(self) -> None:
        """One step of training."""
        if self._at + self._batch > len(self._order):
            self._order, self._at = torch.randperm(SAMPLES, device=self._x.device), 0
        here = self._order[self._at : self._at + self._batch]
        self._at += self._batch
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._kind, torch.bfloat16):
            loss = functional.cross_entropy(self._model(self._x[here]), self._y[here])
        torch.autograd.backward(loss)
        self._optimizer.step()


class Trained:
    """The trainer's step with an exchange that does nothing, as a worker calls them."""

    def __init__(self, name: str, device: torch.device, batch: int, compile_it: bool, job: Job) -> None:
        run = Run.model_validate(
            {
                "name": "benchmark",
                "data": {"name": "digits"},
                "model": {"name": name},
                "optimizer": {"name": "sgd", "lr": _LEARNING_RATE},
                "exchange": {"method": "none"},
                "train": {"steps": 10**6, "precision": "bf16", "channels_last": True, "compile": compile_it},
            }
        )
        source, model = images(), build(name, device)
        data = SampledData(
            Sets(source, source, CLASSES), batch_size=batch, eval_batch_size=1000, normalize=True, device=device
        )
        self._exchange = gossip.build("none", model, job=job)
        self._exchange.start()
        batches = data.batches(rank=0, world_size=1, seed=0)
        self._local = LocalTrainer(run, self._exchange.wrap(model), model, batches, device)

    def step(self) -> None:
        """One step of training."""
        self._local.step(self._exchange.steps)
        self._exchange.step()

    def close(self) -> None:
        """Leave the job."""
        self._exchange.close()


def block(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds a step over `steps` of them, the device's work included."""

    def wait() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - began) / steps


def in_turn(
    loops: Mapping[str, Callable[[], object]], rounds: int, steps: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds a step of each loop, one figure a round."""
    found: dict[str, list[float]] = {name: [] for name in loops}
    for step in loops.values():
        block(step, min(20, steps), device)
    for turn in range(rounds):
        order = list(loops)[turn % len(loops) :] + list(loops)[: turn % len(loops)]
        for name in order:
            found[name].append(block(loops[name], steps, device))
    return found


def trainer(device: torch.device, names: list[str], batch: int, rounds: int, steps: int, compile_it: bool) -> Any:
    """Both loops in turn, for each model."""
    found: dict[str, Any] = {}
    for name in names:
        with job_directories(1, 1) as (place,):
            ours = Trained(name, device, batch, compile_it, Job(0, 1, 0, place, supervised=True))
            hand = ByHand(name, device, batch, compile_it)
            loops = {"by hand": hand.step, "trainer": ours.step}
            found[name] = {"batch": batch, "compiled": compile_it, **in_turn(loops, rounds, steps, device)}
            ours.close()
    return found


def show_trainer(found: dict[str, Any]) -> list[Bar]:
    """Print samples a second; returns the bars."""
    rows, bars = [], []
    for name, lists in found.items():
        share = spread(hand / ours for hand, ours in zip(lists["by hand"], lists["trainer"], strict=True))
        bars.append(Bar(f"{name}: trainer's samples a second over the loop's by hand", ">=", TRAINER_BAR, share.median))
        for loop in ("by hand", "trainer"):
            rate = spread(lists["batch"] / seconds for seconds in lists[loop])
            rows.append(
                [
                    f"{name}, {loop}",
                    spread(lists[loop]).text(3, 1e3),
                    rate.text(0),
                    share.text(3) if loop == "trainer" else "",
                ]
            )
    first = next(iter(found.values()))
    print(f"\nbatch {first['batch']}, bf16, channels last{', compiled' if first['compiled'] else ''}")
    print(report.table(["loop", "step ms", "samples/s", "of by hand"], rows))
    return bars


class Regularized:
    """Plain SGD on a batch that stays on the device, with a regularizer or none."""

    def __init__(
        self, model: nn.Module, make: Callable[[nn.Module, Tensor], Any] | None, shape: tuple[int, ...], batch: int
    ) -> None:
        device = next(model.parameters()).device
        self._model = model
        self._x = torch.randn(batch, *shape, device=device)
        self._y = torch.randint(CLASSES, (batch,), device=device)
        self._regularizer = None if make is None else make(model, self._x)
        own = self._regularizer.parameters() if isinstance(self._regularizer, Regularizer) else []
        self._optimizer = torch.optim.SGD([*model.parameters(), *own], lr=_LEARNING_RATE, fused=True)

    def step(self) -> None:
        """One step of training."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(self._model(self._x), self._y)
        if self._regularizer is not None:
            loss = loss + self._regularizer(self._y)
        torch.autograd.backward(loss)
        self._optimizer.step()


def regularized(device: torch.device, name: str, batch: int, rounds: int, steps: int) -> dict[str, Any]:
    """Every regularizer in turn on one model, with the arithmetic that convolutions have by default."""
    case = regularizers.CASES[name]
    loops: dict[str, Callable[[], object]] = {}
    for variant, (network, make) in regularizers.variants(case, quick=True).items():
        loops[variant] = Regularized(network.build().to(device), make, network.shape, batch).step
    return {"model": name, "batch": batch, "steps_s": in_turn(loops, rounds, steps, device)}


def show_regularized(found: dict[str, Any]) -> list[Bar]:
    """Print the regularizers' table; returns the bars."""
    plain, rows, bars = found["steps_s"]["plain"], [], []
    for variant, taken in found["steps_s"].items():
        ratio = spread(mine / theirs for mine, theirs in zip(taken, plain, strict=True))
        barred = variant in ("shade", "vcl", "reve")
        if barred:
            bars.append(Bar(f"{found['model']}: step with {variant} over plain", "<=", REGULARIZER_BAR, ratio.median))
        rows.append([variant, spread(taken).text(3, 1e3), ratio.text(3), f"{REGULARIZER_BAR:.2f}" if barred else ""])
    print(f"\n{found['model']}, batch {found['batch']}")
    print(report.table(["variant", "step ms", "over plain", "bar"], rows))
    return bars
