"""What the sheets of a job amount to, pure. Imports peers.launch and peers.sheets for their types, and numpy.

Losses are those of training batches, before the step; the loss of a job is the mean over its last `20 M` batches, in
the order of time, whichever workers they came from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.launch import FINISHED, Ran
from benchmarks.peers.sheets import Steps, Task

AVERAGED = 20
"""Batches of each worker in the job's loss."""

Found = dict[str, Any]


def merged(steps: list[Steps]) -> Steps:
    """All workers' steps in the order of time."""
    together = np.concatenate(steps)
    return together[np.argsort(together[:, 0], kind="stable")]


def reached(steps: list[Steps], target: float) -> float | None:
    """When the job's loss came to the target, seconds of the clock of the sheets; None if it did not."""
    rows = merged(steps)
    width = AVERAGED * len(steps)
    if len(rows) < width:
        return None
    means = np.convolve(rows[:, 1], np.full(width, 1 / width), "valid")
    below = np.flatnonzero(means <= target)
    return float(rows[below[0] + width - 1, 0]) if len(below) else None


def longest_gap(steps: Steps, since: float) -> float:
    """The longest time without a step of a worker, seconds; what came before `since` is left out."""
    ends = steps[steps[:, 0] >= since, 0]
    return float(np.diff(np.array([since, *ends])).max())


def figures(ran: Ran, task: Task, target: float) -> Found:
    """A job in numbers; times in seconds from the start of training."""
    found: Found = {"outcome": ran.outcome, "said": ran.said}
    if not any(len(steps) for steps in ran.steps):
        return found
    began = max(result["began"] for result in ran.results) if ran.results else _began(ran.steps)
    first = ran.steps[0]
    end = float(first[-1, 0]) if len(first) else began
    when = reached(ran.steps, target) if ran.outcome == FINISHED else None
    found |= {
        "steps": [len(steps) for steps in ran.steps],
        "seconds": end - began,
        "target_s": None if when is None else when - began,
        "last_loss": float(merged(ran.steps)[-AVERAGED * task.workers :, 1].mean()),
    }
    if ran.outcome == FINISHED:
        # A worker that need not wait for the others makes steps after worker 0 has made its last.
        within = sum(int((steps[:, 0] <= end).sum()) for steps in ran.steps)
        found["samples_per_s"] = within * task.batch_size / (end - began)
    if ran.results:
        found["met_per_step"] = sum(result["met"] for result in ran.results) / sum(
            len(ran.steps[rank]) for rank in range(len(ran.results))
        )
        found["turns"] = [turn for result in ran.results for turn in result["turns"]]
        found["plain_s"] = [result["plain_s"] for result in ran.results]
    if ran.killed is not None:
        found["steps_after"] = int((first[:, 0] > ran.killed).sum())
        if ran.outcome == FINISHED:
            found["longest_gap_s"] = longest_gap(first, ran.killed)
    return found


def _began(steps: list[Steps]) -> float:
    """Of a job whose workers told nothing: a step before the first that was noted."""
    return min(float(one[0, 0]) for one in steps if len(one))
