"""What gossip, the trainer and the regularizers cost on a GPU that several workers share; see docs/gpu.md.

Parts: `memory` (copy and merge beside the device's bandwidth), `exchange` (a step with gossip over one without, DDP
beside it), `trainer` (samples a second beside a loop written by hand), `regularizers` (their step over the plain one).
"""

from __future__ import annotations

import argparse
import subprocess
from typing import Any

import torch

from benchmarks import gpu_exchange, gpu_memory, gpu_steps, options, report
from benchmarks.loops import NETWORKS
from benchmarks.report import Bar

PARTS = ("memory", "exchange", "trainer", "regularizers")
PUBLISHED = (
    "For scale, as published: 94.01 % on CIFAR-10 in 2.59 s on one A100 (airbench94_muon.py,"
    " github.com/KellerJordan/cifar10-airbench), 2.095 s reported since (github.com/hiverge/cifar10-speedrun)."
)


def devices(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on, beside the host."""
    if device.type != "cuda":
        return {"device": device.type}
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    about = torch.cuda.get_device_properties(device)
    return {
        "device": about.name,
        "devices": torch.cuda.device_count(),
        "memory_gb": round(about.total_memory / 1e9, 1),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call, unused-ignore]
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("gpu", __doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu to see that the script works")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=["7m", "25m"], help="of the exchange")
    parser.add_argument("--workers", type=options.COUNT, default=2, help="that share the device")
    parser.add_argument("--batch", type=options.COUNT, default=512, help="of the exchange and the trainer")
    parser.add_argument("--rounds", type=options.COUNT, default=10)
    parser.add_argument("--steps", type=options.COUNT, default=100, help="a round")
    parser.add_argument("--compile", action="store_true", help="models of the trainer's part, both loops")
    given = parser.parse_args(arguments)
    if given.quick:
        small = {"models": ["200k"], "batch": 8, "rounds": 2, "steps": 3}
        given = argparse.Namespace(**{**vars(given), **small})
    device = torch.device(given.device, 0) if given.device != "cpu" else torch.device("cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("got --device cuda on a machine without a GPU that torch can use, expected one; try --device cpu")
    found = report.machine() | devices(device)
    print(report.describe(found))
    print(", ".join(f"{name} {value}" for name, value in devices(device).items()))
    results: dict[str, Any] = {}
    bars: list[Bar] = []
    if "memory" in given.parts:
        results["memory"] = gpu_memory.measure(device, given.models, given.rounds)
        bars += gpu_memory.show(results["memory"])
    if "exchange" in given.parts:
        results["exchange"] = []
        for model in given.models:
            made = gpu_exchange.measure(device, model, given.workers, given.batch, given.rounds, given.steps)
            results["exchange"].append(made)
            bars += gpu_exchange.show(made)
    if "trainer" in given.parts:
        models = ["cnn"] if given.quick else ["cnn", "wide_resnet"]
        results["trainer"] = gpu_steps.trainer(device, models, given.batch, given.rounds, given.steps, given.compile)
        bars += gpu_steps.show_trainer(results["trainer"])
        print(PUBLISHED)
    if "regularizers" in given.parts:
        model = "200k" if given.quick else "wide_resnet"
        results["regularizers"] = gpu_steps.regularized(device, model, min(given.batch, 128), given.rounds, given.steps)
        bars += gpu_steps.show_regularized(results["regularizers"])
    print()
    report.finish(given, found, results, bars)


if __name__ == "__main__":
    report.run(main)
