"""What each regularizer costs over the plain eager step, in one process and one thread, next to batch normalisation.

Every variant trains a model of its own from the same weights on the same random images; the variants take turns, and a
ratio compares neighbours in time. Memory is what autograd keeps for the backward pass, plus averages and parameters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import options, report
from benchmarks.loops import CLASSES, Network
from benchmarks.report import Bar, spread
from regularizers import MeanSquare, Regularizer, Reve, Shade, VarianceConstancy
from regularizers.layers import preactivation_layers
from regularizers.shade import shade_loss
from trainers.models import CnnConfig, WideResNetConfig

BATCH = 128
_LEARNING_RATE = 1e-3
_MB = 1e6


class Case(NamedTuple):
    """A network that all regularizers are tried on.

    Attributes:
        network: plain.
        normalized: the same network with the other normalization, and what that is called.
        bars: largest ratio by variant.
        rounds: of one step of each variant.
    """

    network: Network
    normalized: tuple[str, Network]
    bars: dict[str, float]
    rounds: int


_CIFAR = (3, 32, 32)
CASES = {
    "200k": Case(
        Network(CnnConfig(), (3, 28, 28), "cnn at 3x28x28"),
        ("batch normalisation", Network(CnnConfig(normalization="batch"), (3, 28, 28), "")),
        {"shade": 1.25, "vcl": 1.25, "reve": 1.15},
        40,
    ),
    "wide_resnet": Case(
        Network(WideResNetConfig(), _CIFAR, "wide_resnet 16-4 with batch normalisation at 3x32x32"),
        ("no normalisation", Network(WideResNetConfig(normalization="none"), _CIFAR, "")),
        {"shade": 1.08, "vcl": 1.08, "reve": 1.08},
        8,
    ),
}


class PlainShade:
    """SHADE as one would first write it: autograd through every operation of the formula."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: list[Tensor] = []
        for layer in preactivation_layers(model).values():
            layer.register_forward_hook(lambda module, inputs, output: self._seen.append(output))

    def __call__(self, targets: Tensor) -> Tensor:
        """The loss of the last forward pass, with averages that stay where they start."""
        seen, self._seen = self._seen, []
        return 1e-4 * sum((self._loss(output) for output in seen), start=torch.zeros(()))

    def _loss(self, output: Tensor) -> Tensor:
        one = torch.ones(output.shape[1])
        return shade_loss(output, -one, one)


def variants(case: Case, quick: bool) -> dict[str, tuple[Network, Callable[[nn.Module, Tensor], Any] | None]]:
    """The network and the regularizer of each row."""
    name, other = case.normalized
    found: dict[str, tuple[Network, Callable[[nn.Module, Tensor], Any] | None]] = {
        "plain": (case.network, None),
        "shade": (case.network, lambda model, x: Shade(model, weight=1e-4)),
        "vcl": (case.network, lambda model, x: VarianceConstancy(model, weight=0.01, n=2, example_inputs=x)),
        "reve": (case.network, lambda model, x: Reve(model, weight=1e-4, example_inputs=x)),
        "mean(y^2)": (case.network, lambda model, x: MeanSquare(model, weight=1e-4)),
        name: (other, None),
    }
    if not quick:
        found["shade, straightforward"] = (case.network, lambda model, x: PlainShade(model))
    return found


class Loop:
    """Plain SGD on a batch that never changes.

    Args:
        batch: samples in it.
    """

    def __init__(self, network: Network, make: Callable[[nn.Module, Tensor], Any] | None, batch: int) -> None:
        self.model = network.build()
        generator = torch.Generator().manual_seed(0)
        self._x = torch.randn(batch, *network.shape, generator=generator)
        self._y = torch.randint(CLASSES, (batch,), generator=generator)
        self._regularizer = None if make is None else make(self.model, self._x)
        own: Any = self._regularizer if isinstance(self._regularizer, Regularizer) else nn.Module()
        self._optimizer = torch.optim.SGD([*self.model.parameters(), *own.parameters()], lr=_LEARNING_RATE, fused=True)
        self.state = sum(tensor.nbytes for tensor in [*own.parameters(), *own.buffers()])

    def loss(self) -> Tensor:
        """Forward pass."""
        found = functional.cross_entropy(self.model(self._x), self._y)
        return found if self._regularizer is None else found + self._regularizer(self._y)

    def step(self) -> float:
        """One step of training; returns its seconds."""
        began = time.perf_counter()
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.loss())
        self._optimizer.step()
        return time.perf_counter() - began

    def kept(self) -> int:
        """Bytes that a forward pass keeps for the backward pass, each storage counted once."""
        sizes: dict[int, int] = {}
        alive: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            alive.append(tensor)  # else the next one may have its address
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.loss()
        return sum(sizes.values())


def measure(case: Case, rounds: int, batch: int, quick: bool) -> dict[str, Any]:
    """Seconds of every step of every variant, and the bytes each keeps."""
    loops = {name: Loop(network, make, batch) for name, (network, make) in variants(case, quick).items()}
    first = {name: loop.step() for name, loop in loops.items()}
    for loop in loops.values():
        loop.step()
    steps: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds):
        order = list(loops)[turn % len(loops) :] + list(loops)[: turn % len(loops)]
        for name in order:
            steps[name].append(loops[name].step())
    kept = {name: loop.kept() for name, loop in loops.items()}
    return {"first_s": first, "steps_s": steps, "kept": kept, "state": {n: loop.state for n, loop in loops.items()}}


def show(name: str, case: Case, batch: int, found: dict[str, Any]) -> list[Bar]:
    """Print what was measured; returns the bars."""
    plain = found["steps_s"]["plain"]
    ratios = {
        variant: spread(mine / theirs for mine, theirs in zip(taken, plain, strict=True))
        for variant, taken in found["steps_s"].items()
    }
    rows = [
        [
            variant,
            spread(found["steps_s"][variant]).text(1, 1e3),
            ratio.text(3),
            f"{case.bars[variant]:.2f}" if variant in case.bars else "",
            f"{(found['kept'][variant] - found['kept']['plain']) / _MB:.1f}",
            f"{found['state'][variant] / _MB:.2f}",
            f"{found['first_s'][variant]:.1f}",
        ]
        for variant, ratio in ratios.items()
    ]
    print(f"\n{name}: {case.network.described}, batch {batch}; plain keeps {found['kept']['plain'] / _MB:.0f} MB")
    header = ["variant", "ms a step", "over plain", "bar", "kept, MB more", "state, MB", "first step, s"]
    print(report.table(header, rows))
    return [Bar(f"{name}: step with {v} over plain", "<=", bar, ratios[v].median) for v, bar in case.bars.items()]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("regularizers", __doc__)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--rounds", type=options.COUNT, help="steps of each variant; as many as take about two minutes by default"
    )
    parser.add_argument("--batch", type=options.COUNT, default=BATCH)
    given = parser.parse_args(arguments)
    if given.quick:
        given = argparse.Namespace(**{**vars(given), "models": ["200k"], "rounds": 2, "batch": 8})
    found = report.machine()
    print(report.describe(found))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    bars: list[Bar] = []
    try:
        for name in given.models:
            case = CASES[name]
            results[name] = measure(case, given.rounds or case.rounds, given.batch, given.quick)
            bars += show(name, case, given.batch, results[name])
    finally:
        torch.set_num_threads(threads)
    print()
    report.finish(given, found, results, bars)


if __name__ == "__main__":
    report.run(main)
