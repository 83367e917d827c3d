"""`gosgd consensus`: how well each method holds a consensus for the messages it sends, simulated beside theory.

Imports gossip.simulate, gossip.theory, launch.consensus_cases and launch.consensus_curve; the plot and live processes
only when asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import cast

from gossip import theory
from gossip.simulate import compare
from gossip.world import Clock, DeliveryName, World
from launch.consensus_cases import Case, cases
from launch.consensus_curve import Curve, document, report, since
from launch.errors import DONE
from launch.units import size

_POINTS = 2000
"""Steps at which the error is taken at most: it costs as much as a round."""
_PRIMES = [2, 3, 5, 7, 11, 13]
_VARIANCES = (1e-20, 1e20)


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
    table = report(curves, live, world)
    if given.json is not None:
        text = json.dumps(document(curves, live, world), allow_nan=False)
        if given.json == "-":
            print(text)
        else:
            Path(given.json).write_text(text + "\n")
    print(table, file=sys.stderr if given.json == "-" else sys.stdout)
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
        level, level_sem = result.level(since(world))
        exact = None if exact is None else exact[result.steps - 1]
        curves.append(Curve(case, result.steps, result.mean, result.sem, exact, level, level_sem))
    return curves
