"""The information plane: I(X; T) and I(T; Y) of layers while a model learns. Imports regularizers.mine and layers.

matplotlib, an extra, where a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from regularizers.layers import Layers, probe
from regularizers.mine import estimate
from regularizers.mutual_information import INPUT_SIDE, features


class Point(NamedTuple):
    """What a layer knew after some steps, in nats."""

    step: int
    layer: str
    about_input: float
    about_label: float


class InformationPlane:
    """Measures I(X; T) and I(T; Y) of layers by critics trained anew for each point; see `estimate`.

    T is the layer's output with Gaussian noise, without which I(X; T) would be infinite: of `variance` times the mean
    variance of its units, so that a layer is not told by its scale. A critic learns from one half of the samples and
    is judged by the other: what it gives is a lower bound, a loose one where samples are few or I(X; T) is large.

    Args:
        model: looked at, not changed.
        layers: by name.
        inputs: [N, ...].
        targets: [N].
        classes: there are.
        variance: of the noise, in units of the layer's own.
        steps: of each critic.
        batch_size: of each critic.

    Raises:
        ValueError: there are fewer than four samples.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        inputs: Tensor,
        targets: Tensor,
        *,
        classes: int,
        variance: float = 0.1,
        steps: int = 200,
        batch_size: int = 256,
    ) -> None:
        self.points: list[Point] = []
        self._model, self._layers, self._inputs = model, layers, inputs
        x = features(inputs, INPUT_SIDE)
        self._x = functional.normalize(x - x.mean(0), dim=0) * len(x) ** 0.5
        self._labels = functional.one_hot(targets, classes).float()
        if len(inputs) < 4:
            raise ValueError(f"got {len(inputs)} samples, expected at least 4: two to learn from and two to judge by")
        self._variance, self._steps, self._batch_size = variance, steps, min(batch_size, len(inputs) // 2)

    def measure(self, step: int) -> list[Point]:
        """One point for each layer, with the model's weights as they are now; also kept in `points`."""
        found = []
        for name, calls in probe(self._model, self._layers, self._inputs).items():
            t = features(calls[-1][1], side=4)
            t = t - t.mean(0)
            t = t / t.square().mean().sqrt().clamp_min(1e-12)
            found.append(Point(step, name, self._estimate(self._x, t), self._estimate(self._labels, t)))
        self.points += found
        return found

    def _estimate(self, x: Tensor, t: Tensor) -> float:
        generator = torch.Generator().manual_seed(0)
        scale = self._variance**0.5
        halves = torch.randperm(len(x), generator=generator).chunk(2)

        def sampler(half: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
            def sample(count: int) -> tuple[Tensor, Tensor]:
                at = half[torch.randperm(len(half), generator=generator)[:count]].to(x.device)
                return x[at], t[at] + scale * torch.randn(len(at), t.shape[1], generator=generator).to(t)

            return sample

        learned, unseen = (sampler(half) for half in halves)
        return estimate(learned, steps=self._steps, batch_size=self._batch_size, unseen=unseen)


def plot_plane(points: list[Point], path: Path, classes: int) -> None:
    """I(T; Y) over I(X; T), a line a layer, its first step hollow and its last filled; the dashed line is log C."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.2, 4.4), layout="constrained")
    ceiling = float(torch.tensor(float(classes)).log())
    axis.axhline(ceiling, color="black", lw=0.8, ls="--")
    axis.annotate(
        f"log {classes}", (1, ceiling), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
    )
    for name in dict.fromkeys(point.layer for point in points):
        own = [point for point in points if point.layer == name]
        x, y = [point.about_input for point in own], [point.about_label for point in own]
        (line,) = axis.plot(x, y, lw=1.2, label=name)
        color = line.get_color()
        axis.plot(x[:1], y[:1], "o", ms=7, mfc="white", mec=color)
        axis.plot(x[1:-1], y[1:-1], "o", ms=3, color=color)
        axis.plot(x[-1:], y[-1:], "o", ms=7, color=color)
    steps = sorted({point.step for point in points})
    axis.set_xlim(left=0)
    axis.set_ylim(0, 1.1 * ceiling)
    axis.set_xlabel("I(X; T) in nats")
    axis.set_ylabel("I(T; Y) in nats")
    axis.set_title(f"lower bounds after steps {', '.join(map(str, steps))} (hollow to filled)", fontsize=9)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
