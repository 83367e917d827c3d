"""Training digits until a loss is reached: the task, and the table of who got there when. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks import report
from benchmarks.report import spread


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All images [N, 64] in [0, 1] and their classes [N]."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


def classifier(hidden: Sequence[int]) -> nn.Module:
    """With two hidden layers."""
    first, second = hidden
    parts = [nn.Linear(64, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 10)]
    return nn.Sequential(*parts)


def slower(made: list[dict[str, Any]]) -> tuple[float, int]:
    """Seconds and steps of whichever worker was later; those of its end where it did not get there."""
    ends = [(one["seconds"] or one["curve"][-1][0], one["steps"]) for one in made]
    return max(ends)


def show_race(found: dict[str, Any]) -> None:
    """Print the table of times."""
    rows = []
    for method, runs in found["methods"].items():
        seconds = spread(slower(made)[0] for made in runs)
        steps = spread(float(slower(made)[1]) for made in runs)
        missed = sum(one["seconds"] is None for made in runs for one in made)
        rows.append([method, seconds.text(2), steps.text(0), f"{1e3 * seconds.median / steps.median:.1f}", str(missed)])
    print(
        f"\n{found['model']}: digits until the loss is below {found['target']:g} on both workers, round trips of"
        f" {found['delay_ms']:g} ms, {found['mbits_per_s']:g} Mbit/s each way, seeds: {len(runs)}"
    )
    print(report.table(["method", "seconds", "steps", "ms a step", "not reached"], rows))
