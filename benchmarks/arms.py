"""What benchmarks that compare ways of training have in common: a loop in this process, results that survive a stop.

Imports torch and regularizers. One thread; a batch is drawn from a generator of its own, so that two arms with the same
seed start from the same weights and see the same batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import options, report
from regularizers import Regularizer

EVALUATED = 1000

Row = dict[str, Any]


class Results:
    """Rows of figures by key, each written down as soon as it is there.

    Args:
        path: of a file of JSON lines; what it holds already is not computed again. None: nothing is kept.

    Raises:
        ValueError: the file holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.is_file() else []
        try:
            self.rows: dict[str, Row] = {line["key"]: line for line in map(json.loads, lines)}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"--results: got {path}, expected runs that this benchmark wrote, or no such file"
            ) from None

    def get(self, key: dict[str, Any], compute: Callable[[], Row]) -> Row:
        """The row of a key, computed unless it is known."""
        text = ", ".join(f"{name} {value}" for name, value in key.items())
        if text not in self.rows:
            began = time.perf_counter()
            row = {"key": text, **key, **compute(), "seconds": round(time.perf_counter() - began, 2)}
            self.rows[text] = row
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            report.progress(f"{text}: {100 * row['accuracy']:.2f} %, {row['seconds']} s")
        return self.rows[text]


def add_options(parser: argparse.ArgumentParser, seeds: int, steps: int | None = None) -> None:
    """How many runs, how long, and where they are kept.

    Args:
        seeds: by default.
        steps: by default; None where the length of a run is not asked for.
    """
    parser.add_argument("--seeds", type=options.COUNT, default=seeds)
    if steps is not None:
        parser.add_argument("--steps", type=options.COUNT, default=steps, help="of every run (%(default)s)")
    parser.add_argument(
        "--results", type=options.output, metavar="FILE.jsonl", help="write each run there, and go on from it"
    )


def clip_layers(model: nn.Module, most: float) -> None:
    """Clip the norm of each layer's gradient, weight and bias together."""
    for layer in model.modules():
        own = [parameter for parameter in layer.parameters(recurse=False) if parameter.grad is not None]
        if own:
            nn.utils.clip_grad_norm_(own, most)


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    regularizer: Regularizer | None = None,
    clip: float | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    schedule: Callable[[int], float] | None = None,
) -> None:
    """Train a model; an epoch is a permutation of the samples, its last short batch is left out.

    Args:
        clip: largest norm of each layer's gradient.
        augment: of a batch.
        schedule: factor on the learning rate by step.
    """
    generator = torch.Generator().manual_seed(seed)
    rates = [group["lr"] for group in optimizer.param_groups]
    order: list[Tensor] = []
    model.train()
    for step in range(steps):
        if not order:
            shuffled = torch.randperm(len(x), generator=generator)
            order = list(shuffled.split(batch_size))  # type: ignore[no-untyped-call, unused-ignore]
            order = order[:-1] if len(order) > 1 and len(order[-1]) < batch_size else order
        at = order.pop().to(x.device)
        batch = x[at] if augment is None else augment(x[at], generator)
        if schedule is not None:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step)
        loss = functional.cross_entropy(model(batch), y[at])
        if regularizer is not None:
            loss = loss + regularizer(y[at])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if clip is not None:
            clip_layers(model, clip)
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples classified as they should be, in evaluation mode."""
    model.eval()
    right = [
        (model(x[at : at + EVALUATED]).argmax(1) == y[at : at + EVALUATED]).sum() for at in range(0, len(x), EVALUATED)
    ]
    return int(torch.stack(right).sum()) / len(x)


def groups(model: nn.Module, regularizer: Regularizer | None, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Parameter groups: the model's, and a regularizer's own without weight decay."""
    made: list[dict[str, Any]] = [{"params": list(model.parameters()), "weight_decay": weight_decay}]
    if regularizer is not None and (learned := list(regularizer.parameters())):
        made.append({"params": learned, "weight_decay": 0.0})
    return made


def paired(differences: Iterable[float]) -> dict[str, Any]:
    """Mean and standard deviation of differences between arms with the same seed."""
    found = list(differences)
    spread = statistics.stdev(found) if len(found) > 1 else None
    return {"differences": found, "mean": statistics.fmean(found), "stdev": spread, "pairs": len(found)}


def points(difference: dict[str, Any]) -> str:
    """A paired difference in percentage points: `mean ± standard deviation`."""
    spread = "" if difference["stdev"] is None else f" ± {100 * difference['stdev']:.1f}"
    return f"{100 * difference['mean']:+.1f}{spread}"
