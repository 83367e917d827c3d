"""Few samples of MNIST-M: none, weight decay, SHADE, REVE, VCL and the control mean(y^2), paired by seed.

The thesis' CNN and protocol (4.4.3.1): three convolutions, Adam at 0.001, batches of 50, pixels in [-1, 1], nested
subsets with N / 10 samples a class. Each weight is chosen on the 5,000 validation digits, with a seed of its own, at
N = 100 (used for 100 and 250) and N = 500 (for 500 and 1,000), among powers of ten as in the thesis. With --results a
run that was stopped goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import arms, options, report
from benchmarks.report import Bar
from regularizers import REGULARIZERS, Regularizer
from trainers import models
from trainers.data.mnist_m import MnistMConfig, mnist_m
from trainers.data.prepare import limited
from trainers.data.sources import Sets, TensorSource
from trainers.models import LeNetConfig

BATCH_SIZE = 50
SIZES = (100, 250, 500, 1000)
CHOSEN_AT = {100: 100, 250: 100, 500: 500, 1000: 500}
CHOOSING_SEED = 1000
LEAST = 1e-7
STEPS = 500

WEIGHTS: dict[str, list[float]] = {
    "none": [0.0],
    "weight_decay": [1e-3, 1e-4, 1e-5],
    "shade": [1e-1, 1e-2, 1e-3],
    "reve": [1e-2, 1e-3, 1e-4],
    "vcl": [10.0, 1.0, 0.1],
    "mean_square": [10.0, 1.0, 0.1],
}
"""Where each search starts; losses that are means over neurons need larger weights than those that are sums."""

CLAIM = "the thesis claims 10 to 15 points for SHADE below 1,000 samples (4.4.3)"
BARS = {100: 8.0, 250: 8.0, 500: 5.0, 1000: 3.0}


class Images:
    """MNIST-M as tensors on a device, pixels in [-1, 1]."""

    def __init__(self, root: str, backgrounds: str, device: torch.device) -> None:
        self._sets: dict[str, Sets] = {
            held_out: mnist_m(MnistMConfig(root=root, backgrounds=backgrounds, held_out=held_out))
            for held_out in ("validation", "test")
        }
        self._device = device

    def train(self, count: int) -> tuple[Tensor, Tensor]:
        """The nested subset of `count` samples."""
        return self._ready(limited(self._sets["test"].train, count))

    def held_out(self, half: str, most: int | None = None) -> tuple[Tensor, Tensor]:
        """The validation or the test half."""
        x, y = self._ready(self._sets[half].test)
        return x[:most], y[:most]

    def _ready(self, source: Any) -> tuple[Tensor, Tensor]:
        assert isinstance(source, TensorSource)
        return (source.x.float() / 127.5 - 1).to(self._device), source.y.to(self._device)


def network(seed: int, device: torch.device) -> nn.Module:
    """The thesis' CNN."""
    torch.manual_seed(seed)
    return models.build(LeNetConfig(kernels=[5, 3, 3], pool=2), (3, 28, 28), 10).to(device)


def regularized(arm: str, weight: float, model: nn.Module, example: Tensor) -> Regularizer | None:
    """The arm's regularizer, if it has one."""
    if arm in ("none", "weight_decay"):
        return None
    return REGULARIZERS.get(arm)(model, weight=weight, example_inputs=example)


def trained(
    arm: str, weight: float, seed: int, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], steps: int
) -> arms.Row:
    """One run."""
    x, y = train
    model = network(seed, x.device)
    regularizer = regularized(arm, weight, model, x[:BATCH_SIZE])
    decay = weight if arm == "weight_decay" else 0.0
    optimizer = torch.optim.Adam(arms.groups(model, regularizer, decay), lr=1e-3)
    clip = 1.0 if arm == "vcl" else None
    try:
        arms.fit(
            model, optimizer, x, y, steps=steps, batch_size=BATCH_SIZE, seed=seed, regularizer=regularizer, clip=clip
        )
    except ValueError as error:
        if "activations" not in str(error):
            raise
        return {"accuracy": 0.1, "diverged": True}  # a weight that is too large is a result, too
    if regularizer is not None:
        regularizer.remove()
    return {"accuracy": arms.accuracy(model, *held_out), "training": arms.accuracy(model, x, y)}


def choose(start: list[float], validated: Callable[[float], arms.Row]) -> tuple[float, list[arms.Row]]:
    """The weight of the best accuracy, and the runs it was chosen by.

    The search goes on by tenths (or tens) for as long as the best weight is the smallest (or the largest) tried.

    Args:
        start: falling, a factor of ten apart; one alone is not searched.
        validated: trains with a weight.
    """
    if len(start) == 1:
        return start[0], []
    rows = [validated(weight) for weight in start]
    while True:
        best = max(range(len(rows)), key=lambda at: float(rows[at]["accuracy"]))
        weight = float(rows[best]["weight"])
        if best == 0 and not rows[0].get("diverged"):
            rows.insert(0, validated(float(f"{10 * weight:g}")))
        elif best == len(rows) - 1 and weight > LEAST:
            rows.append(validated(float(f"{weight / 10:g}")))
        else:
            return weight, rows


def compare(
    images: Images, results: arms.Results, names: list[str], sizes: list[int], seeds: int, steps: int, most: int | None
) -> dict[str, Any]:
    """Choose weights, then train every arm with every seed."""
    validation, test = images.held_out("validation", most), images.held_out("test", most)
    chosen: dict[str, dict[int, float]] = {name: {} for name in names}
    searched: list[arms.Row] = []
    for at in sorted({CHOSEN_AT[size] for size in sizes}):
        train = images.train(at)
        for name in names:

            def validated(weight: float) -> arms.Row:
                key = {"for": "weight", "arm": name, "N": at, "weight": weight, "steps": steps}  # noqa: B023
                return results.get(key, lambda: trained(name, weight, CHOOSING_SEED, train, validation, steps))  # noqa: B023

            chosen[name][at], rows = choose(WEIGHTS[name], validated)
            searched += rows
    found: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in names}
    for size in sizes:
        train = images.train(size)
        for seed in range(seeds):
            for name in names:
                weight = chosen[name][CHOSEN_AT[size]]
                key = {"for": "test", "arm": name, "N": size, "weight": weight, "seed": seed, "steps": steps}
                row = results.get(key, lambda: trained(name, weight, seed, train, test, steps))  # noqa: B023
                found[name][size].append(row["accuracy"])
    gains = {
        name: {
            size: arms.paired(a - b for a, b in zip(found[name][size], found["none"][size], strict=True))
            for size in sizes
        }
        for name in names
    }
    return {"steps": steps, "chosen": chosen, "searched": searched, "accuracies": found, "gains": gains}


def show(compared: dict[str, Any], sizes: list[int]) -> list[Bar]:
    """Print the tables; returns the bars."""
    names = list(compared["accuracies"])
    print(
        f"\nMNIST-M, {compared['steps']} steps of {BATCH_SIZE}, accuracy in percent (mean over seeds), weights chosen"
    )
    header = ["arm", *(f"N = {size}" for size in sizes), *(f"weight, N = {at}" for at in compared["chosen"]["none"])]
    rows = []
    for name in names:
        means = [f"{100 * statistics.fmean(compared['accuracies'][name][size]):.2f}" for size in sizes]
        weights = [f"{weight:g}" for weight in compared["chosen"][name].values()]
        rows.append([name, *means, *weights])
    print(report.table(header, rows))
    print("\ngain over none in points, paired by seed, mean ± standard deviation")
    rows = [[name, *(arms.points(compared["gains"][name][size]) for size in sizes)] for name in names if name != "none"]
    print(report.table(["arm", *(f"N = {size}" for size in sizes)], rows))
    print(f"{CLAIM}; mean_square is the control: what a shrinkage of activations does without modes\n")
    bars = []
    for name in names:
        if name in ("shade", "reve", "vcl"):
            for size in sizes:
                bar = BARS[size] if name == "shade" else 0.0
                gain = 100 * compared["gains"][name][size]["mean"]
                bars.append(Bar(f"{name} less none at N = {size}, points", ">=", bar, gain))
    return bars


def main(arguments: list[str] | None = None) -> None:
    """Train, print, write."""
    parser = options.parser("small_sample", __doc__)
    parser.add_argument("--data-root", default="data", metavar="DIR", help="folder of MNIST's files")
    parser.add_argument("--backgrounds", required=True, metavar="DIR|FILE.npz", help="natural images")
    parser.add_argument(
        "--arms",
        type=options.some_of(WEIGHTS),
        default=",".join(WEIGHTS),
        help=f"of {', '.join(WEIGHTS)}; none is always there",
    )
    parser.add_argument(
        "--sizes",
        type=options.some_of(map(str, SIZES)),
        default=",".join(map(str, SIZES)),
        help="training samples (%(default)s)",
    )
    arms.add_options(parser, seeds=5, steps=STEPS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = report.machine()
    print(report.describe(found))
    names = ["none", *(name for name in given.arms.split(",") if name != "none")]
    sizes = [int(size) for size in given.sizes.split(",")]
    if given.quick:
        sizes, given.seeds, given.steps = sizes[:1], 1, 3
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with options.mistakes(parser):
        images, known = Images(given.data_root, given.backgrounds, device), arms.Results(given.results)
    most = 200 if given.quick else None
    compared = compare(images, known, names, sizes, given.seeds, given.steps, most)
    report.finish(given, found, compared, show(compared, sizes))


if __name__ == "__main__":
    report.run(main)
