"""SHADE: the variance of each neuron given the mode it is in, as a loss (Blot's thesis, chapter 4).

Imports regularizers.base, fused, layers and tap, and torch.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from regularizers.base import REGULARIZERS, Regularizer, RegularizerConfig
from regularizers.fused import Fused
from regularizers.layers import home, key, probe, width
from regularizers.tap import tap

Form = Literal["exp", "sigmoid"]
Reduction = Literal["mean", "sum"]


class ShadeConfig(RegularizerConfig):
    """Options of `shade`.

    Attributes:
        form: of p(B = 1 | y): `exp`, 1 - exp(-ReLU(y)), or `sigmoid`.
        reduction: over samples: their mean (4.10), or their sum (4.11), which grows with the batch.
        statistics: of a convolution: one per `channel`, its positions being samples, or one per `position`.
        decay: of the moving averages, lambda in algorithm 5.
    """

    name: Literal["shade"] = "shade"
    form: Form = "exp"
    reduction: Reduction = "mean"
    statistics: Literal["channel", "position"] = "channel"
    decay: float = Field(default=0.8, ge=0, lt=1)


def modes(y: Tensor, form: Form = "exp") -> tuple[Tensor, Tensor]:
    """p(B = 0 | y) and p(B = 1 | y) of each element."""
    if form == "sigmoid":
        return torch.sigmoid(-y), torch.sigmoid(y)
    absent = torch.exp(-torch.relu(y))
    return absent, 1 - absent


def shade_loss(y: Tensor, mu0: Tensor, mu1: Tensor, form: Form = "exp", reduction: Reduction = "mean") -> Tensor:
    """Omega = sum over neurons of mean_k sum_b p(b | y_k) (y_k - mu^b)^2 (thesis, eq. 4.10).

    Gradients flow through y and p(b | y), never through mu.

    Args:
        y: pre-activations [K, D], or [K, C, H, W] whose positions are samples like the batch.
        mu0, mu1: E(Y | B = b) of each neuron [D] or channel [C]; [C, H, W] makes each position a neuron.
        form: see `modes`.
        reduction: over samples.
    """
    low, high = (_beside(mu.detach(), y) for mu in (mu0, mu1))
    p0, p1 = modes(y, form)
    total = (p0 * (y - low).square() + p1 * (y - high).square()).sum()
    return total / (y.numel() // mu0.numel()) if reduction == "mean" else total


def _beside(mu: Tensor, y: Tensor) -> Tensor:
    """mu [D...] as it is broadcast against y [K, D..., positions...]."""
    return mu.reshape(mu.shape + (1,) * (y.dim() - 1 - mu.dim()))


def _measured(
    y: Tensor, mu0: Tensor, mu1: Tensor, scale: Tensor, gradient: Tensor, sigmoid: bool
) -> tuple[Tensor, Tensor]:
    """All that is needed of one layer, in one pass.

    Args:
        y: [K, D] or [K, C, positions], of any floating dtype.
        mu0, mu1: [D] or [C].
        scale: of the gradient.
        gradient: like y; filled with that of the loss, times scale.

    Returns:
        The sum over all elements of sum_b p(b | y) (y - mu^b)^2, the loss; and per neuron the sums over samples of
        p(0 | y), p(1 | y), p(0 | y) y and p(1 | y) y, [4, D].
    """
    x = y.to(mu0.dtype)
    p0, p1 = modes(x, "sigmoid" if sigmoid else "exp")
    slope = p0 * p1 if sigmoid else torch.where(x > 0, p0, 0.0)  # of p(1 | y)
    below, above = x - _beside(mu0, y), x - _beside(mu1, y)
    far, near = below.square(), above.square()
    gradient.copy_(scale * (2 * (p0 * below + p1 * above) + slope * (near - far)))
    columns = [p0 * far + p1 * near, p0, p1, p0 * x, p1 * x]
    # Positions first: this sum and the gradient then share one loop.
    per_row = [column.sum(2) for column in columns] if y.dim() == 3 else columns
    loss, *sums = [column.sum(0) for column in per_row]
    return loss.sum(), torch.stack(sums)


_measure = Fused(_measured)
_PART = 1 << 20
"""Elements that are measured at once on a processor: they and what is made of them on the way stay in its cache."""


def _measured_in_parts(y: Tensor, mu0: Tensor, mu1: Tensor, scale: float, form: Form) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient and sums of `_measured`."""
    gradient = torch.empty_like(y)
    rows = len(y) if y.device.type != "cpu" else max(1, _PART * len(y) // max(1, y.numel()))
    factor = torch.full((), scale, dtype=mu0.dtype, device=y.device)  # filled there: nothing is copied or waited for
    parts = [
        _measure(some, mu0, mu1, factor, into, form == "sigmoid")
        for some, into in zip(torch.split(y, rows), torch.split(gradient, rows), strict=True)
    ]
    losses, sums = zip(*parts, strict=True)
    return torch.stack(losses).sum(), gradient, torch.stack(sums).sum(0)


class Averages(NamedTuple):
    """Moving averages of a layer (algorithm 5), one of each a neuron: E(Y | B = b) and p(B = b)."""

    mu0: Tensor
    mu1: Tensor
    p0: Tensor
    p1: Tensor


@REGULARIZERS.register(ShadeConfig)
class Shade(Regularizer):
    """SHannon DEcay: pulls each pre-activation towards the mean of the mode it is in (thesis, eq. 4.10, algorithm 5).

    The loss is taken with the averages from before the batch, which then enters them; in evaluation nothing does. Each
    worker keeps averages of its own, in its checkpoint.

    Args:
        model: hooked, not changed.
        example_inputs: [N, ...], a batch; needed for `statistics: position` and for named layers of other kinds than
            linear and convolution.
        options: see ShadeConfig.

    Raises:
        ValueError: an option is out of range, a layer pattern fits nothing, or the neurons of a layer are not known.
    """

    Options = ShadeConfig
    options: ShadeConfig

    def __init__(self, model: nn.Module, *, example_inputs: Tensor | None = None, **options: Any) -> None:
        super().__init__(model, **options)
        self._batch: dict[str, tuple[Tensor, int]] = {}
        for name, shape in self._neurons(model, example_inputs).items():
            device, dtype = home(self.layers[name])
            start = torch.tensor([-1.0, 1.0, 0.5, 0.5], device=device, dtype=dtype)
            self.register_buffer(key(name), start.reshape(4, *[1] * len(shape)).repeat(1, *shape))

    def _neurons(self, model: nn.Module, example_inputs: Tensor | None) -> dict[str, tuple[int, ...]]:
        """Shape of the statistics of each layer."""
        per_position = self.options.statistics == "position"
        widths = {name: width(layer) for name, layer in self.layers.items()}
        if not per_position and None not in widths.values():
            return {name: (count,) for name, count in widths.items() if count is not None}
        calls = probe(model, self.layers, example_inputs)
        return {
            name: tuple(made[0][1].shape[1:] if per_position else made[0][1].shape[1:2]) for name, made in calls.items()
        }

    def averages(self, layer: str) -> Averages:
        """The moving averages of a layer, each of its neurons' shape; views, not copies."""
        return Averages(*self.get_buffer(key(layer)))

    def observe(self, layer: str, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, Tensor, int]:
        """The sums over samples of one call, the loss among them with its gradient."""
        state = self.get_buffer(key(layer))
        samples = self._samples(layer, output.detach(), state)
        mu0, mu1 = state[0].flatten(), state[1].flatten()
        count = samples.numel() // mu0.numel()
        terms = count if self.options.reduction == "mean" else 1
        scale = self.scale(layer, output, terms) / terms  # of the sum
        with torch.no_grad():
            total, gradient, sums = _measured_in_parts(samples, mu0, mu1, scale, self.options.form)
        return tap(output, total, gradient.reshape(output.shape), scale=scale), sums, count

    def _samples(self, layer: str, output: Tensor, state: Tensor) -> Tensor:
        """The output as [K, D] or [K, C, positions]."""
        shape = state.shape[1:]
        if self.options.statistics == "position":
            fits = output.shape[1:] == shape
            samples = output.flatten(1) if fits else output
        elif isinstance(self.layers[layer], nn.Linear):
            samples = output.reshape(-1, output.shape[-1])
            fits = samples.shape[1:] == shape
        else:
            samples = output if output.dim() == 2 else output.flatten(2)
            fits = samples.shape[1:2] == shape
        if not fits:
            raise ValueError(
                f"got an output {tuple(output.shape)} of layer {layer!r}, expected statistics of shape {tuple(shape)}"
                " in it, as in example_inputs"
            )
        return samples

    def losses(self, seen: dict[str, list[Any]], targets: Tensor) -> dict[str, Tensor]:
        """Omega of each layer; a layer that was called twice has twice as many samples."""
        found: dict[str, Tensor] = {}
        for name, calls in seen.items():
            count = sum(samples for _, _, samples in calls)
            total = torch.stack([loss for loss, _, _ in calls]).sum()
            found[name] = total / count if self.options.reduction == "mean" else total
            self._batch[name] = torch.stack([sums for _, sums, _ in calls]).sum(0), count
        return found

    @torch.no_grad()
    def update(self) -> None:
        """p^b <- 0.8 p^b + 0.2 mean_k p(b | y_k), then mu^b <- 0.8 mu^b + 0.2 mean_k p(b | y_k) y_k / p^b."""
        old, new = self.options.decay, 1 - self.options.decay
        for name, (sums, count) in self._batch.items():
            state = self.get_buffer(key(name))
            means = (sums / count).reshape(state.shape)
            mu, p = state[:2], state[2:]
            p.mul_(old).add_(means[:2], alpha=new)
            # A mode without samples decays to 0 in float32; its share of the batch is 0 long before.
            mu.mul_(old).add_(means[2:] / p.clamp_min(torch.finfo(p.dtype).tiny), alpha=new)
        self._batch = {}
