"""`gosgd consensus`: how well each method holds a consensus for the messages it sends, simulated beside theory.

Imports gossip.simulate, gossip.theory and launch.consensus_cases; the plot and live processes only when asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gossip import theory
from gossip.simulate import compare
from gossip.world import Clock, DeliveryName, World
from launch.consensus_cases import Case, cases
from launch.errors import DONE
from launch.units import size

_POINTS = 2000
"""Steps at which the error is taken at most: it costs as much as a round."""
_PRIMES = [2, 3, 5, 7, 11, 13]
_VARIANCES = (1e-20, 1e20)


@dataclass(frozen=True)
class Curve:
    """What was found for a case.

    Attributes:
        case: which.
        steps: [T] after how many steps.
        mean: [T] consensus error over the repeats.
        sem: [T] its standard error; None with a single repeat.
        theory: [T], or None where no exact value is known.
        level: mean error over the last half of the steps.
        level_sem: its standard error over the repeats.
    """

    case: Case
    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    sem: NDArray[np.float64] | None
    theory: NDArray[np.float64] | None
    level: float
    level_sem: float | None


def run(given: argparse.Namespace) -> int:
    """Simulate, print, write.

    Raises:
        ValueError: an argument is wrong, a file cannot be written, or matplotlib is missing.
        RunFailedError: a live process failed.
    """
    world = _world(given)
    chosen = cases(given)
    for path, kinds in ((given.plot, (".png", ".pdf", ".svg")), (given.json, ())):
        if path is not None and path != "-":
            _check_writable(Path(path), kinds)
    if given.plot is not None:
        _check_matplotlib()
    if given.real:
        from launch.consensus_live import check

        check([case.method for case in chosen], world)
    _check_memory(world, len(chosen))
    curves = _simulated(chosen, world)
    live: list[Curve] = []
    if given.real:
        from launch.consensus_live import measure

        live = measure(chosen, world)
    report = _report(curves, live, world)
    if given.json is not None:
        text = json.dumps(_document(curves, live, world), allow_nan=False)
        if given.json == "-":
            print(text)
        else:
            Path(given.json).write_text(text + "\n")
    print(report, file=sys.stderr if given.json == "-" else sys.stdout)
    if given.plot is not None:
        from launch.consensus_plot import draw

        draw(Path(given.plot), curves, live, world)
    return DONE


def _world(given: argparse.Namespace) -> World:
    for name in ("workers", "dim", "steps", "repeats"):
        if getattr(given, name) < 1:
            raise ValueError(f"--{name}: got {getattr(given, name)}, expected at least 1")
    if given.seed < 0:
        raise ValueError(f"--seed: got {given.seed}, expected 0 or more")
    low, high = _VARIANCES
    if not low <= given.variance <= high:
        raise ValueError(f"--variance: got {given.variance:g}, expected {low:g} to {high:g}")
    return World(
        given.workers,
        given.dim,
        given.steps,
        clock=cast(Clock, given.clock),
        delivery=cast(DeliveryName, given.delivery),
        variance=given.variance,
        repeats=given.repeats,
        seed=given.seed,
    )


def _check_writable(path: Path, kinds: tuple[str, ...]) -> None:
    if kinds and path.suffix.lower() not in kinds:
        raise ValueError(f"--plot: got {path}, expected a file that ends in {', '.join(kinds)}")
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"is in {path.parent}, which is not a folder"
        raise ValueError(f"got {path}, which {what}; expected a file in a folder that exists")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"got {path}, which cannot be written; expected a file in a folder of yours")


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("--plot: matplotlib is not installed; pip install 'gosgd[plots]'") from None


def _check_memory(world: World, methods: int) -> None:
    # Updates, and for each method workers, mail or accumulators, and what measuring takes.
    needed = 4 * world.repeats * world.workers * world.dimension * (3 + 2 * methods)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * there:
        raise ValueError(
            f"got {world.repeats} repeats of {world.workers} workers with {world.dimension} elements, which take"
            f" {size(needed)}; expected to fit into {size(there)}: lower --repeats or --dim"
        )


def _measured(chosen: list[Case], world: World) -> range:
    """Every step, or of many steps every p-th with a prime p that is in step with no method's period."""
    stride = world.steps // _POINTS + 1
    periods = [world.workers, *(round(1 / case.rho) for case in chosen if case.rho)]
    while stride > 1 and (
        any(stride % prime == 0 for prime in _PRIMES if prime < stride)
        or any(period % stride == 0 for period in periods)
    ):
        stride += 1
    return range(world.steps, 0, -stride)[::-1]


def _simulated(chosen: list[Case], world: World) -> list[Curve]:
    measured = _measured(chosen, world)
    results = compare([case.config for case in chosen], world, measured)
    curves = []
    for case, result in zip(chosen, results, strict=True):
        exact = theory.expected(
            case.config, world.workers, world.dimension, world.steps, world.clock, world.delivery, world.variance
        )
        level, level_sem = result.level(_since(world))
        exact = None if exact is None else exact[result.steps - 1]
        curves.append(Curve(case, result.steps, result.mean, result.sem, exact, level, level_sem))
    return curves


def _since(world: World) -> int:
    return world.steps // 2 + 1


def _document(curves: list[Curve], live: list[Curve], world: World) -> dict[str, Any]:
    return {
        "runs": [_run(curve, world, world.repeats) for curve in curves],
        **({"live": [_run(curve, world, 1) for curve in live]} if live else {}),
    }


def _run(curve: Curve, world: World, repeats: int) -> dict[str, Any]:
    return {
        "method": curve.case.method,
        "rho": curve.case.rho,
        "workers": world.workers,
        "dim": world.dimension,
        "clock": world.clock,
        "delivery": world.delivery,
        "variance": world.variance,
        "repeats": repeats,
        "messages": curve.case.messages,
        "level": curve.level,
        "level_sem": curve.level_sem,
        "steps": curve.steps.tolist(),
        "mean": curve.mean.tolist(),
        "sem": [None] * len(curve.steps) if curve.sem is None else curve.sem.tolist(),
        "theory": None if curve.theory is None else curve.theory.tolist(),
    }


def _report(curves: list[Curve], live: list[Curve], world: World) -> str:
    """A table for a person; levels per dimension and variance, so that they compare across sizes."""
    scale = world.dimension * world.variance
    measured = {id(curve.case): curve.level / scale for curve in live}
    header = ["method", "rho", "messages", "level", "+-", "theory", *(["live"] if live else [])]
    rows = []
    for curve in curves:
        late = curve.steps >= _since(world)
        rows.append(
            [
                curve.case.method,
                "" if curve.case.rho is None else f"{curve.case.rho:g}",
                f"{curve.case.messages:.4g}",
                f"{curve.level / scale:.4g}",
                "" if curve.level_sem is None else f"{curve.level_sem / scale:.2g}",
                "-" if curve.theory is None else f"{curve.theory[late].mean() / scale:.4g}",
                *([f"{measured[id(curve.case)]:.4g}"] if live else []),
            ]
        )
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    unit = "rounds (every worker updates)" if world.clock == "round" else "ticks (one random worker updates)"
    notes = [
        f"consensus error of {world.workers} workers in {world.dimension} dimensions, updates of variance"
        f" {world.variance:g}; clock {world.clock}: {world.steps} {unit}; delivery {world.delivery};"
        f" repeats {world.repeats}",
        f"level: error / (dim x variance), mean over steps {_since(world)} to {world.steps} with its standard error;"
        " theory: the same mean of the exact expectation (-: none known); messages: vectors sent per worker and step",
    ]
    if live:
        notes.append(
            f"live: one run of {world.workers} processes at the same pace with random updates in place of gradients,"
            " weights read after every"
            " round; a message is merged when its receiver next looks, in the same round or the one after"
        )
    if any(curve.case.method == "downpour" for curve in live):
        notes.append(
            "downpour: a live worker fetches at the end of a step, right after its own push; a simulated one at the"
            " start of the next, when all have pushed"
        )
    return "\n".join([notes[0], "", *table, "", *notes[1:]])
