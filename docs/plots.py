"""Draws the pictures of the pages on methods and regularizers: python -m docs.plots [NAME ...]

Methods: their matrix for eight workers, and the consensus error of the simulator under random updates. Regularizers:
what they do to the pre-activations of a small network on scikit-learn's digits. All is seeded; a minute on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
import torch
from torch import nn
from torch.nn import functional

import regularizers
from gossip.methods import METHODS
from gossip.methods.base import MethodConfig
from gossip.methods.none import NoneConfig
from gossip.portrait import portrait
from gossip.simulate import World, compare
from gossip.theory import expected
from regularizers.analysis.edm import edm_loss, group_means
from trainers.models.layers import MaxMin

matplotlib.use("Agg")

from matplotlib import pyplot

HERE = Path(__file__).parent / "plots"
WORKERS, DIMENSION, ROUNDS, REPEATS = 8, 100, 300, 40
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
STYLE: Any = {
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
}
RING = "docs.plots:ring"


def ring(step: int, workers: int) -> Any:
    """Every worker takes the mean with its neighbours on a ring, after every tenth step."""
    if (step + 1) % 10:
        return None
    own = np.eye(workers)
    return (own + np.roll(own, 1, 0) + np.roll(own, -1, 0)) / 3


METHOD_OPTIONS: dict[str, Sequence[dict[str, Any]]] = {
    "none": [{}],
    "fully_sync": [{}],
    "persyn": [{"tau": 10}, {"tau": 50}],
    "easgd": [{"tau": 10}, {"tau": 1}, {"tau": 10, "alpha": 0.2}],
    "downpour": [{"n_fetch": 10, "n_push": 10}, {"n_fetch": 1, "n_push": 1}],
    "gosgd": [{"rho": 0.02}, {"rho": 0.1}, {"rho": 0.1, "peers": "adaptive"}, {"rho": 0.4}],
    "matrix": [{"schedule": RING}],
}


def method(name: str) -> None:
    """K of an exchange, and the consensus error over rounds."""
    configs: list[MethodConfig] = [METHODS.config(name).of(**given) for given in METHOD_OPTIONS[name]]  # type: ignore[misc]
    drawn = portrait(configs[0], WORKERS)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.5, 3.3), width_ratios=[1, 1.7], layout="constrained")
    image = left.imshow(np.ma.masked_equal(drawn.exchange, 0), cmap="Blues", vmin=0, vmax=1)
    left.set_title(f"K of {drawn.event.partition(',')[0].partition(' (')[0].partition(' at ')[0]}", fontsize=8)
    labels = ["w~", *(f"w{worker}" for worker in range(1, WORKERS + 1))]
    left.set_xticks(range(WORKERS + 1), labels, fontsize=7)
    left.set_yticks(range(WORKERS + 1), labels, fontsize=7)
    left.grid(False)
    figure.colorbar(image, ax=left, shrink=0.8)
    world = World(WORKERS, DIMENSION, ROUNDS, repeats=REPEATS, seed=0)
    none = NoneConfig.of()
    for color, given, result in zip(COLORS, METHOD_OPTIONS[name], compare(configs, world), strict=False):
        label = ", ".join([name, *(f"{key}: {value}" for key, value in given.items())]).replace(RING, "ring")
        above = {"clip_on": False, "zorder": 3}  # an error of 0 lies on the axis
        right.plot(result.steps, result.mean / DIMENSION, color=color, linewidth=1.3, label=label, **above)
    bound = expected(none, WORKERS, DIMENSION, ROUNDS)
    if bound is not None and name != "none":
        right.plot(np.arange(1, ROUNDS + 1), bound / DIMENSION, color="#7f7f7f", linestyle=":", label="none")
    if min(line.get_ydata().min() for line in right.lines) > 0:
        right.set_yscale("log")
    else:  # logarithmic above 10, so that 0 has a place
        right.set_yscale("symlog", linthresh=10)
        right.set_ylim(bottom=0)
    right.set_xlabel("rounds: local steps of every worker")
    right.set_ylabel("consensus error per dimension")
    right.set_title(f"M = {WORKERS}, D = {DIMENSION}, updates N(0, 1), mean of {REPEATS} simulations", fontsize=9)
    right.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(name, figure)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32) / 8 - 1, torch.tensor(data.target)


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


Score = Callable[[torch.Tensor, nn.Sequential], float]
_TRAINED, _STEPS, _BATCH, _EVERY = 200, 600, 50, 20


def _train(kind: Callable[[nn.Module, torch.Tensor], nn.Module] | None, score: Score) -> dict[str, Any]:
    """Train on 200 digits; what became of the second hidden layer's pre-activations on the others."""
    x, y = _digits()
    network = _network()
    regularizer = None if kind is None else kind(network, x[:_BATCH])
    learned = [] if regularizer is None else list(regularizer.parameters())
    optimizer = torch.optim.SGD([*network.parameters(), *learned], lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    told: dict[str, Any] = {"steps": [], "score": [], "accuracy": []}
    for step in range(_STEPS + 1):
        if step % _EVERY == 0:
            network.eval()
            with torch.no_grad():
                inside, logits = network[:3](x[_TRAINED:]), network(x[_TRAINED:])
            network.train()
            told["steps"].append(step)
            told["score"].append(score(inside, network))
            told["accuracy"].append(float((logits.argmax(1) == y[_TRAINED:]).float().mean()))
        batch = torch.randperm(_TRAINED, generator=generator)[:_BATCH]
        loss = functional.cross_entropy(network(x[batch]), y[batch])
        if regularizer is not None:
            loss = loss + regularizer(y[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()
    told["inside"] = inside.flatten().numpy()
    return told


def _given_the_mode(inside: torch.Tensor, network: nn.Module) -> float:
    """Mean over neurons of the variance given the mode, which SHADE estimates with moving averages."""
    high = 1 - torch.exp(-torch.relu(inside))
    means = [(weight * inside).sum(0) / weight.sum(0).clamp_min(1e-6) for weight in (1 - high, high)]
    within = ((1 - high) * (inside - means[0]).square() + high * (inside - means[1]).square()).mean(0)
    return float(within.mean())


def _constancy(inside: torch.Tensor, network: nn.Module) -> float:
    """Spread of the variance of pairs of samples, over its mean."""
    pairs = inside[: len(inside) // 2 * 2].view(-1, 2, inside.shape[1]).var(1)
    return float((pairs.std(0) / pairs.mean(0).clamp_min(1e-9)).mean())


def _covariance(inside: torch.Tensor, network: nn.Module) -> float:
    """Half the sum of squared covariances between the means of eight groups."""
    return float(edm_loss(group_means(inside, 8)))


def _square(inside: torch.Tensor, network: nn.Module) -> float:
    return float(inside.square().mean())


def _outside(inside: torch.Tensor, network: nn.Sequential) -> float:
    """Entropy bound of z: mean over coordinates of the log standard deviation of what the classifier sees."""
    h = torch.relu(inside)
    weight = cast(nn.Linear, network[4]).weight.detach()
    basis = torch.linalg.svd(weight, full_matrices=False).Vh.mT
    return float((h @ basis).std(0).log().mean())


def _information(inside: torch.Tensor, network: nn.Sequential) -> float:
    """Log of the signal's share: mean over neurons of 1/2 log(1 + variance / 0.1), nats."""
    return float(0.5 * torch.log1p(inside.var(0) / 0.1).mean())


REGULARIZERS: dict[str, tuple[Callable[[nn.Module, torch.Tensor], nn.Module], Score, str]] = {
    "shade": (lambda m, x: regularizers.Shade(m, weight=1e-2), _given_the_mode, "variance given the mode"),
    "reve": (lambda m, x: regularizers.Reve(m, weight=1e-2), _outside, "log spread in the classifier's row space"),
    "vcl": (
        lambda m, x: regularizers.VarianceConstancy(m, weight=0.01, example_inputs=x),
        _constancy,
        "spread / mean of variances of pairs",
    ),
    "mutual_information": (
        lambda m, x: regularizers.MutualInformation(m, weight=1e-3, example_inputs=x),
        _information,
        "1/2 log(1 + variance / noise), nats",
    ),
    "edm": (lambda m, x: regularizers.Edm(m, weight=0.1), _covariance, "covariance between groups"),
    "mean_square": (lambda m, x: regularizers.MeanSquare(m, weight=0.1), _square, "mean of y squared"),
}


def regularizer(name: str) -> None:
    """Pre-activations at the end, what is penalised while training, and accuracy, with and without."""
    kind, score, label = REGULARIZERS[name]
    told = {"none": _train(None, score), name: _train(kind, score)}
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 2.9), layout="constrained")
    for color, (title, one) in zip(("#7f7f7f", "#0072b2"), told.items(), strict=True):
        low, high = np.quantile(told["none"]["inside"], [0.002, 0.998])
        axes[0].hist(one["inside"], bins=np.linspace(low, high, 80), density=True, color=color, alpha=0.6, label=title)
        axes[1].plot(one["steps"], one["score"], color=color, label=title)
        axes[2].plot(one["steps"], one["accuracy"], color=color, label=title)
    axes[0].set_xlabel("pre-activations of the second hidden layer")
    axes[0].set_ylabel("density")
    axes[1].set_ylabel(label)
    axes[2].set_ylabel("held-out accuracy")
    axes[2].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    axes[2].set_ylim(0.7, 0.95)
    for axis in axes[1:]:
        axis.set_xlabel("step")
    axes[0].legend(frameon=False)
    _save(name, figure)


def maxmin() -> None:
    """What MaxMin keeps of a pre-activation that relu loses."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 2.9), layout="constrained")
    x = torch.linspace(-2, 2, 201)
    both = MaxMin()(x[:, None])
    left.plot(x, both[:, 0], color="#0072b2", label="first half: relu(x)")
    left.plot(x, both[:, 1], color="#d55e00", linestyle="--", label="second half: relu(-x)")
    left.set_xlabel("x")
    left.set_title("MaxMin(x) of one channel", fontsize=9)
    left.legend(frameon=False)
    signal = torch.sin(torch.linspace(0, 6 * np.pi, 400)) * torch.linspace(0.2, 1, 400)
    right.plot(torch.relu(signal), color="#0072b2", label="relu keeps this")
    right.plot(-torch.relu(-signal), color="#d55e00", linestyle="--", label="MaxMin this, too, in a channel of its own")
    right.set_ylim(-1, 1.4)
    right.legend(frameon=False, fontsize=8, loc="upper left")
    right.set_xlabel("position")
    right.set_ylabel("pre-activation")
    _save("maxmin", figure)


def _save(name: str, figure: Any) -> None:
    HERE.mkdir(exist_ok=True)
    figure.savefig(HERE / f"{name}.png", dpi=90, metadata={"Software": None})
    pyplot.close(figure)
    print(HERE / f"{name}.png")


def main(names: Sequence[str]) -> None:
    """Draw the pictures with these names, or all."""
    torch.set_num_threads(1)
    with matplotlib.rc_context(STYLE):
        for name in names or [*METHOD_OPTIONS, *REGULARIZERS, "maxmin"]:
            if name in METHOD_OPTIONS:
                method(name)
            elif name in REGULARIZERS:
                regularizer(name)
            else:
                maxmin()


if __name__ == "__main__":
    main(sys.argv[1:])
