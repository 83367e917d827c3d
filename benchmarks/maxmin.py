"""MaxMin against ReLU at equal parameter count on 10,000 images of CIFAR-10, paired by seed.

The 200K CNN of the thesis (3.4.2); MaxMin's width is chosen so that the two have the same number of parameters (3.3.4).
Each arm has its own learning rate, chosen on 2,000 further training images with a seed of its own; SGD with momentum
0.9, the rate rising through the first tenth of the steps, then falling along a cosine. With --results a run that was
stopped goes on.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor

from benchmarks import arms, options, report
from benchmarks.report import Bar
from trainers import models
from trainers.data import DATA
from trainers.data.cifar10 import Cifar10Config
from trainers.data.prepare import limited
from trainers.data.sources import TensorSource, moments
from trainers.models import CnnConfig, parameter_count

BATCH_SIZE = 128
SAMPLES, VALIDATION = 10_000, 2_000
EPOCHS = 10.0
RATES = [0.2, 0.1, 0.07, 0.05, 0.03, 0.02]
WARM_UP = 0.1
CHOOSING_SEED = 1000
WEIGHT_DECAY = 1e-4
ACTIVATIONS = ("relu", "maxmin")
CLAIM = "the thesis' table 3.1: MaxMin ahead at every parameter count, by 2.6 to 4.3 points on all of CIFAR-10"


def images(root: str, samples: int, validation: int, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """Training, validation and test images, normalised on the training ones."""
    sets = DATA.get("cifar10")(Cifar10Config(root=root))
    pool = limited(sets.train, samples + validation)
    assert isinstance(pool, TensorSource) and isinstance(sets.test, TensorSource)
    # The pool is in the files' order, which is random: its first samples are as good as any.
    halves = {
        "training": (pool.x[:samples], pool.y[:samples]),
        "validation": (pool.x[samples:], pool.y[samples:]),
        "test": (sets.test.x, sets.test.y),
    }
    mean, std = (part.float().view(-1, 1, 1) for part in moments(halves["training"][0]))
    return {name: (((x.float() - mean) / std).to(device), y.to(device)) for name, (x, y) in halves.items()}


def mirrored(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Every other image, by chance, from left to right."""
    flip = torch.rand(len(batch), generator=generator).to(batch.device) < 0.5
    return torch.where(flip[:, None, None, None], batch.flip(3), batch)


def trained(
    activation: str, rate: float, seed: int, data: dict[str, tuple[Tensor, Tensor]], half: str, epochs: float
) -> arms.Row:
    """One run."""
    x, y = data["training"]
    torch.manual_seed(seed)
    model = models.build(CnnConfig(activation=activation), tuple(x.shape[1:]), 10).to(x.device)  # type: ignore[arg-type]
    steps = max(1, round(epochs * (len(x) // BATCH_SIZE)))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=WEIGHT_DECAY)
    arms.fit(
        model,
        optimizer,
        x,
        y,
        steps=steps,
        batch_size=BATCH_SIZE,
        seed=seed,
        augment=mirrored,
        schedule=lambda step: min(1.0, (step + 1) / (WARM_UP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    return {"accuracy": arms.accuracy(model, *data[half]), "parameters": parameter_count(model), "steps": steps}


def compare(
    data: dict[str, tuple[Tensor, Tensor]], results: arms.Results, rates: list[float], seeds: int, epochs: float
) -> dict[str, Any]:
    """Choose a rate for each activation, then train both with every seed."""
    chosen, searched, parameters = {}, [], {}
    found: dict[str, list[float]] = {name: [] for name in ACTIVATIONS}
    for name in ACTIVATIONS:
        rows = []
        for rate in rates:
            key = {"for": "rate", "activation": name, "rate": rate, "epochs": epochs}
            rows.append(
                results.get(key, lambda: trained(name, rate, CHOOSING_SEED, data, "validation", epochs))  # noqa: B023
            )
        chosen[name] = max(rows, key=lambda row: row["accuracy"])["rate"]
        searched += rows
    for seed in range(seeds):
        for name in ACTIVATIONS:
            key = {"for": "test", "activation": name, "rate": chosen[name], "seed": seed, "epochs": epochs}
            row = results.get(key, lambda: trained(name, chosen[name], seed, data, "test", epochs))  # noqa: B023
            found[name].append(row["accuracy"])
            parameters[name] = row["parameters"]
    gain = arms.paired(a - b for a, b in zip(found["maxmin"], found["relu"], strict=True))
    return {
        "epochs": epochs,
        "training_samples": len(data["training"][0]),
        "chosen": chosen,
        "searched": searched,
        "parameters": parameters,
        "accuracies": found,
        "gain": gain,
    }


def show(compared: dict[str, Any]) -> list[Bar]:
    """Print the table; returns the bar."""
    count, epochs = compared["training_samples"], compared["epochs"]
    print(f"\nCIFAR-10, {count:,} training images, {epochs:g} epochs, accuracy in percent")
    rows = [
        [
            name,
            f"{compared['parameters'][name]:,}",
            f"{compared['chosen'][name]:g}",
            f"{100 * statistics.fmean(found):.2f}",
            ", ".join(f"{100 * accuracy:.2f}" for accuracy in found),
        ]
        for name, found in compared["accuracies"].items()
    ]
    print(report.table(["activation", "parameters", "learning rate", "mean", "by seed"], rows))
    print(f"maxmin less relu: {arms.points(compared['gain'])} points; {CLAIM}\n")
    return [Bar("maxmin less relu, points", ">=", 0.0, 100 * compared["gain"]["mean"])]


def main(arguments: list[str] | None = None) -> None:
    """Train, print, write."""
    parser = options.parser("maxmin", __doc__)
    parser.add_argument("--data-root", default="data", metavar="DIR", help="folder of CIFAR-10's python batches")
    parser.add_argument("--epochs", type=options.above_zero, default=EPOCHS)
    arms.add_options(parser, seeds=3)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = report.machine()
    print(report.describe(found))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates, sizes = RATES, (SAMPLES, VALIDATION)
    if given.quick:
        rates, sizes, given.seeds, given.epochs = RATES[1:2], (256, 128), 1, 1.0
    with options.mistakes(parser):
        data, known = images(given.data_root, *sizes, device), arms.Results(given.results)
    if given.quick:
        data["test"] = (data["test"][0][:200], data["test"][1][:200])
    compared = compare(data, known, rates, given.seeds, given.epochs)
    report.finish(given, found, compared, show(compared))


if __name__ == "__main__":
    report.run(main)
