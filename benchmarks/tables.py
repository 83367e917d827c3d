"""The variance constancy loss against batch normalisation and nothing on the numeric tables that scikit-learn ships.

The paper's settings where they carry over (section 3): hidden layers of 256 units, batches of 20, n = 10, gamma = 0.01,
SGD at 0.01, the same number of steps for everybody; activations relu, elu and selu; with and without each layer's
gradient clipped at 1. Each seed holds out another random fifth. Nothing is chosen on the held-out rows.
"""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import arms, options, report
from regularizers import VarianceConstancy
from trainers import models
from trainers.data.sampling import stratified_split
from trainers.models import MlpConfig

BATCH_SIZE, N = 20, 10
GAMMA = 0.01
RATE = 0.01
HIDDEN = [256] * 4
ACTIVATIONS = ("relu", "elu", "selu")
ARMS = ("none", "batch", "vcl")
TABLES = ("iris", "wine", "breast_cancer", "digits", "diabetes")
STEPS = 1000
CLAIM = "the paper's table 4, wins of none / batch norm / VCL on 44 tables: ReLU 9/15/27, ELU 14/16/23, SELU 11/15/28"

Split = tuple[Tensor, Tensor, Tensor, Tensor]


def table(name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Features and classes; the target of `diabetes`, a quantity, is whether it lies above its median."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x, (y > np.median(y)).astype(np.int64) if name == "diabetes" else y.astype(np.int64)


def split(name: str, seed: int) -> Split:
    """Four fifths for training, one held out, each class in proportion; standardised on the training rows."""
    x, y = table(name)
    train, test = stratified_split(y, round(len(y) / 5), seed)
    mean, std = x[train].mean(0), x[train].std(0)
    ready = torch.from_numpy(((x - mean) / np.where(std > 0, std, 1)).astype(np.float32))
    labels = torch.from_numpy(y)
    return ready[train], labels[train], ready[test], labels[test]


def trained(name: str, activation: str, arm: str, clip: bool, seed: int, steps: int) -> arms.Row:
    """One run."""
    x, y, held_x, held_y = split(name, seed)
    torch.manual_seed(seed)
    config = MlpConfig(
        hidden=HIDDEN,
        activation=activation,  # type: ignore[arg-type]
        normalization="batch" if arm == "batch" else "none",
    )
    model: nn.Module = models.build(config, tuple(x.shape[1:]), int(y.max()) + 1)
    regularizer = None
    if arm == "vcl":
        regularizer = VarianceConstancy(model, weight=GAMMA, n=N, example_inputs=x[:BATCH_SIZE])
    optimizer = torch.optim.SGD(arms.groups(model, regularizer), lr=RATE, momentum=0.9)
    try:
        arms.fit(
            model,
            optimizer,
            x,
            y,
            steps=steps,
            batch_size=BATCH_SIZE,
            seed=seed,
            regularizer=regularizer,
            clip=1.0 if clip else None,
            schedule=lambda step: 1.0 if step < 0.7 * steps else 0.1,
        )
    except ValueError as error:
        if "activations" not in str(error):
            raise
        return {"accuracy": 1 / (int(y.max()) + 1), "diverged": True}
    return {"accuracy": arms.accuracy(model, held_x, held_y)}


def compare(results: arms.Results, names: list[str], activations: list[str], seeds: int, steps: int) -> list[arms.Row]:
    """Every arm on every table with every seed."""
    rows = []
    for name in names:
        for activation in activations:
            for clip in (False, True):
                for arm in ARMS:
                    found = []
                    for seed in range(seeds):
                        key = {"table": name, "activation": activation, "clip": clip, "arm": arm, "seed": seed}
                        run = results.get(
                            key | {"steps": steps},
                            lambda: trained(name, activation, arm, clip, seed, steps),  # noqa: B023
                        )
                        found.append(run["accuracy"])
                    rows.append(
                        {"table": name, "activation": activation, "clip": clip, "arm": arm, "accuracies": found}
                    )
    return rows


def show(rows: list[arms.Row], steps: int) -> None:
    """Print the table and the wins."""
    print(f"\naccuracy in percent, mean ± standard deviation over held-out fifths, {steps} steps of {BATCH_SIZE}")
    cases: dict[tuple[str, str, bool], dict[str, list[float]]] = {}
    for row in rows:
        cases.setdefault((row["table"], row["activation"], row["clip"]), {})[row["arm"]] = row["accuracies"]
    wins: dict[tuple[str, bool], Counter[str]] = {}
    lines = []
    for (name, activation, clip), found in cases.items():
        means = {arm: statistics.fmean(values) for arm, values in found.items()}
        best = max(means.values())
        counted = wins.setdefault((activation, clip), Counter())
        counted.update(arm for arm in ARMS if means[arm] == best)
        cells = [
            f"{100 * means[arm]:.2f}" + (f" ± {100 * statistics.stdev(found[arm]):.2f}" if len(found[arm]) > 1 else "")
            for arm in ARMS
        ]
        lines.append([name, activation, "1" if clip else "-", *cells])
    print(report.table(["table", "activation", "clip", *ARMS], lines))
    print("\ntables on which each has the best mean (equals count for all)")
    lines = [
        [activation, "1" if clip else "-", *(str(won[arm]) for arm in ARMS)] for (activation, clip), won in wins.items()
    ]
    print(report.table(["activation", "clip", *ARMS], lines))
    print(f"{CLAIM}\n")


def main(arguments: list[str] | None = None) -> None:
    """Train, print, write."""
    parser = options.parser("tables", __doc__)
    parser.add_argument("--tables", type=options.some_of(TABLES), default=",".join(TABLES), help="(%(default)s)")
    parser.add_argument(
        "--activations", type=options.some_of(ACTIVATIONS), default=",".join(ACTIVATIONS), help="(%(default)s)"
    )
    arms.add_options(parser, seeds=5, steps=STEPS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = report.machine()
    print(report.describe(found))
    names, activations = given.tables.split(","), given.activations.split(",")
    if given.quick:
        names, activations, given.seeds, given.steps = names[:1], activations[:1], 1, 2
    with options.mistakes(parser):
        known = arms.Results(given.results)
    rows = compare(known, names, activations, given.seeds, given.steps)
    show(rows, given.steps)
    report.finish(given, found, rows, [])


if __name__ == "__main__":
    report.run(main)
