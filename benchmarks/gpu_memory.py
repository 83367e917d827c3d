"""Copy and merge of a weight vector beside the bandwidth of the device's memory, in one process. Imports gossip.

Beside them the step of torch's fused SGD on a model's many tensors and on one flat tensor of the same size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks import report
from benchmarks.loops import NETWORKS
from benchmarks.report import Bar, spread
from gossip.devices import device_of
from gossip.flat import Flat
from gossip.transports.ipc import ipc_of

SHARE = 0.85
_SLOTS = 8  # more than any cache holds
_REPEATS = 20
_LARGE = 1 << 28  # bytes of the copy that shows what the device can do
_AHEAD = 20_000_000  # ticks of a GPU's clock, about 10 ms
_SMALL = 1 << 22  # the same on a CPU


def timed(work: Callable[[int], object], device: torch.device) -> float:
    """Seconds that the device takes for `work(turn)`; what asking for it costs is hidden."""
    for turn in range(3):
        work(turn)
    if device.type == "cpu":
        began = time.perf_counter()
        for turn in range(_REPEATS):
            work(turn)
        return (time.perf_counter() - began) / _REPEATS
    first, last = torch.Event(device, enable_timing=True), torch.Event(device, enable_timing=True)
    torch.accelerator.synchronize(device)
    if device.type == "cuda":  # what is asked for meanwhile is done without a pause
        torch.cuda._sleep(_AHEAD)  # type: ignore[no-untyped-call, unused-ignore]
    first.record()
    for turn in range(_REPEATS):
        work(turn)
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / _REPEATS


def optimizers(model: nn.Module, device: torch.device) -> dict[str, float]:
    """Seconds of a step of SGD with momentum, on the tensors of a model and on one of the same size."""
    found = {}
    many = list(model.parameters())
    one = [nn.Parameter(torch.zeros(sum(tensor.numel() for tensor in many), device=device))]
    for name, tensors in (("tensors", many), ("flat", one)):
        optimizer = torch.optim.SGD(tensors, lr=0.0, momentum=0.9, fused=True)
        for tensor in tensors:
            tensor.grad = torch.zeros_like(tensor)
        found[name] = timed(lambda turn, optimizer=optimizer: optimizer.step(), device)  # type: ignore[misc]
    return found


def measure(device: torch.device, models: list[str], rounds: int) -> dict[str, Any]:
    """Bytes a second, read and written, of a large copy and of what an exchange does to each model's vector."""
    size = _SMALL if device.type == "cpu" else _LARGE
    here, there = (torch.zeros(size // 4, device=device) for _ in range(2))
    found: dict[str, Any] = {"shared": False, "bandwidth": [], "models": {}, "optimizers": {}}
    vectors = {}
    for name in models:
        model = NETWORKS[name].build().to(device)
        vector = Flat(model).vector
        ipc = ipc_of(vector) if device.type == "cuda" else None
        found["shared"] |= ipc is not None
        made = [
            torch.empty_like(vector) if ipc is None else ipc.make(len(vector), vector.dtype)[0] for _ in range(_SLOTS)
        ]
        for slot in made:
            slot.copy_(vector)
        vectors[name] = (vector, made)
        found["models"][name] = {"bytes": vector.nbytes} | {
            f"{kind}{what}": [] for kind in ("copy", "snapshot", "merge") for what in ("", "_s")
        }
        found["optimizers"][name] = optimizers(model, device)
    for _ in range(rounds):
        found["bandwidth"].append(2 * size / timed(lambda turn: here.copy_(there), device))
        for name, (vector, made) in vectors.items():
            way, lists = device_of(vector), found["models"][name]

            def copy(turn: int, vector: Any = vector, made: Any = made) -> None:
                made[turn % _SLOTS].copy_(vector)

            def snapshot(turn: int, way: Any = way, vector: Any = vector, made: Any = made) -> None:
                way.snapshot(made[turn % _SLOTS], vector, len(vector))
                way.guard()

            def merge(turn: int, way: Any = way, vector: Any = vector, made: Any = made) -> None:
                vector.lerp_(way.here(made[turn % _SLOTS]), 0.25)
                way.mark()

            for kind, work, passes in (("copy", copy, 2), ("snapshot", snapshot, 2), ("merge", merge, 3)):
                seconds = timed(work, device)
                lists[f"{kind}_s"].append(seconds)
                lists[kind].append(passes * vector.nbytes / seconds)
    return found


def show(found: dict[str, Any]) -> list[Bar]:
    """Print what was measured; returns the bars."""
    whole = spread(found["bandwidth"])
    memory = "exported memory" if found["shared"] else "torch's own memory"
    print(f"\nlarge copy: {whole.text(0, 1e-9)} GB/s read and written; slots in {memory}")
    rows, bars = [], []
    for name, lists in found["models"].items():
        for kind in ("copy", "snapshot", "merge"):  # a snapshot is a copy with two streams that wait for each other
            share = spread(rate / whole.median for rate in lists[kind])
            rows.append(
                [
                    f"{name}: {kind}",
                    spread(lists[f"{kind}_s"]).text(1, 1e6),
                    spread(lists[kind]).text(0, 1e-9),
                    share.text(2),
                ]
            )
            if kind != "snapshot":
                bars.append(Bar(f"{name}: {kind}, share of the bandwidth", ">=", SHARE, share.median))
    print(report.table(["", "us", "GB/s", "of the large copy"], rows))
    for name, taken in found["optimizers"].items():
        many, one = (taken[kind] * 1e6 for kind in ("tensors", "flat"))
        print(f"{name}: fused SGD {many:.1f} us on the model's tensors, {one:.1f} us on one of their size")
    return bars
