"""A layer's activations over a data set, positions of a convolution being samples. Imports regularizers.layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from regularizers.layers import Layers, probe, units_second

Batch = tuple[Tensor, Tensor]


def rows(output: Tensor, positions: int | None = None) -> Tensor:
    """[K, D] as it is, [K, C, ...] as [K · positions, C].

    Args:
        positions: at most so many of each sample, evenly spread.
    """
    if output.dim() == 2:
        return output
    flat = output.flatten(2)
    if positions is not None and flat.shape[2] > positions:
        flat = flat[:, :, torch.arange(positions, device=flat.device) * flat.shape[2] // positions]
    return flat.mT.flatten(0, 1)


def collect(model: nn.Module, layers: Layers, batches: Iterable[Batch], most: int) -> dict[str, Tensor]:
    """What each layer gives in evaluation mode, as [samples, D].

    Args:
        most: rows to keep of a layer, at least one of each sample.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    kept = list(batches)
    positions = max(1, most // max(1, sum(len(x) for x, _ in kept)))
    for x, _ in kept:
        for name, calls in probe(model, layers, x).items():
            parts[name] += [rows(units_second(layers[name], output), positions) for _, output in calls]
    return {name: torch.cat(found) for name, found in parts.items()}
