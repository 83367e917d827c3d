"""What `gosgd consensus` found of a case, and how it tells it: a table and JSON. Imports launch.consensus_cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip.world import World
from launch.consensus_cases import Case


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


def since(world: World) -> int:
    """The first of the steps over which a level is taken: those of the last half."""
    return world.steps // 2 + 1


def document(curves: list[Curve], live: list[Curve], world: World) -> dict[str, Any]:
    """What `--json` writes."""
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


def report(curves: list[Curve], live: list[Curve], world: World) -> str:
    """A table for a person; levels per dimension and variance, so that they compare across sizes."""
    scale = world.dimension * world.variance
    measured = {id(curve.case): curve.level / scale for curve in live}
    header = ["method", "rho", "messages", "level", "+-", "theory", *(["live"] if live else [])]
    rows = []
    for curve in curves:
        late = curve.steps >= since(world)
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
        f"level: error / (dim x variance), mean over steps {since(world)} to {world.steps} with its standard error;"
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
