"""`gosgd replay RUN_DIR`: the recorded run as a product of matrices. Imports trainers.replay."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from configs.files import to_json
from launch.errors import DONE, RunFailedError
from launch.process import let_users_modules_be_found
from trainers.replay import replay
from trainers.run_directory import RunDirectory

TOLERANCE = 1e-5
"""Largest relative deviation at which a replay counts as having arrived, in float32."""


def run(path: Path, as_json: bool) -> int:
    """Replay a run and compare it with the weights it ended with.

    Raises:
        ValueError: the run has no traces, or they do not fit together.
        RunFailedError: the replay ends somewhere else.
    """
    let_users_modules_be_found()
    made = replay(RunDirectory(path))
    if not made.deviations:
        raise ValueError(f"{path}: got no worker that ended in good order, expected a run that came to its end")
    largest = float(np.max([one.relative for one in made.deviations]))  # no number if any is none
    figures: dict[str, Any] = {
        "moves": dict(made.moves),
        "workers": [dataclasses.asdict(one) for one in made.deviations],
        "largest_relative": largest,
        "tolerance": TOLERANCE,
    }
    print(to_json(figures, indent=2) if as_json else describe(figures))
    if math.isnan(largest):
        raise RunFailedError(f"{path}: got weights that are no numbers, which cannot be compared")
    if largest > TOLERANCE:
        raise RunFailedError(
            f"{path}: the replay ends {largest:.1e} (relative) from the weights the run ended with,"
            f" more than {TOLERANCE:g}: the run did not do what its trace says"
        )
    return DONE


def describe(figures: dict[str, Any]) -> str:
    """The figures for a person."""
    moves = ", ".join(f"{count:,} {name}" for name, count in figures["moves"].items() if name not in ("place", "end"))
    rows = [f"  {one['member']:>8}  {one['largest']:>17.2e}  {one['relative']:>8.1e}" for one in figures["workers"]]
    return "\n".join(
        [
            f"replayed {moves}",
            "    worker  largest deviation  relative",
            *rows,
            f"largest relative deviation {figures['largest_relative']:.1e}, tolerance {figures['tolerance']:g}",
        ]
    )
