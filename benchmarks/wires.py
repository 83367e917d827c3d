"""What rounding messages costs in accuracy: gossip with each wire_dtype on digits, paired by seed.

Every run is a `gosgd train` of its own, as in benchmarks.accuracy. Merging is in float32 throughout.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import options, report, runs
from benchmarks.accuracy import interval
from gossip.methods.gosgd import WIRES

WORKERS = 4
RHO = 0.1
STEPS = 200
FULL = "float32"


def settings(wire: str, seed: int, steps: int) -> runs.Settings:
    """The recipe `digits` with gossip, a wire and a seed."""
    exchange = {"method": "gosgd", "rho": RHO, "wire_dtype": wire}
    quiet = {"tensorboard": False, "log_every": 50}
    return runs.recipe("digits") | {"exchange": exchange, "seed": seed, "train": {"steps": steps}, "run": quiet}


def compare(wires: Sequence[str], seeds: int, steps: int, workers: int, folder: Path) -> dict[str, Any]:
    """Held-out accuracies in percent, by seed and wire, and differences from float32 in points."""
    pairs: list[dict[str, float]] = []
    for seed in range(seeds):
        pairs.append({})
        for wire in wires:
            summary = runs.train(settings(wire, seed, steps), workers, folder / f"{wire}-{seed}")
            pairs[-1][wire] = 100 * float(summary["accuracy"])
        report.progress(f"seed {seed}: {pairs[-1]}")
    less = {wire: interval([pair[wire] - pair[FULL] for pair in pairs]) for wire in wires if wire != FULL}
    return {"workers": workers, "steps": steps, "rho": RHO, "pairs": pairs, "less float32": less}


def show(compared: dict[str, Any]) -> None:
    """Print the table."""
    pairs = compared["pairs"]
    wires = [*pairs[0]]
    rows = [[str(seed), *(f"{pair[wire]:.2f}" for wire in wires)] for seed, pair in enumerate(pairs)]
    rows.append(["mean", *(f"{statistics.fmean(pair[wire] for pair in pairs):.2f}" for wire in wires)])
    print(f"\ndigits: M = {compared['workers']}, {compared['steps']} steps a worker, rho = {RHO}, accuracy in percent")
    print(report.table(["seed", *wires], rows))
    for wire, less in compared["less float32"].items():
        spread = "" if less["half_width"] is None else f", 95 % interval +- {less['half_width']:.2f}"
        print(f"{wire} less float32: {less['mean']:+.2f} points{spread}")


def main(arguments: list[str] | None = None) -> None:
    """Train, print, write."""
    parser = options.parser("wires", __doc__)
    parser.add_argument("--seeds", type=options.COUNT, default=5)
    parser.add_argument("--workers", type=options.COUNT, default=WORKERS)
    parser.add_argument("--steps", type=options.COUNT, default=STEPS, help="of a worker")
    given = parser.parse_args(arguments)
    wires = [*WIRES]
    if given.quick:
        wires = [FULL, "bfloat16"]
        given = argparse.Namespace(**{**vars(given), "seeds": 1, "steps": 20, "workers": 2})
    found = report.machine()
    print(report.describe(found))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        results = compare(wires, given.seeds, given.steps, given.workers, Path(temporary))
    show(results)
    report.finish(given, found, results, [])


if __name__ == "__main__":
    report.run(main)
