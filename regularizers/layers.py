"""Which layers of a model a regularizer looks at, found by themselves or named by pattern. Imports torch only.

Names are those of `model.named_modules()`. A module that a model calls twice has one name and is looked at twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Layers = dict[str, nn.Module]


def linear_layers(model: nn.Module) -> Layers:
    """Every linear and convolution layer of the model by its name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, _ConvNd))}


def is_head(layer: nn.Module) -> bool:
    """Whether a layer can be a classifier: linear, or a convolution 1x1."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and set(layer.kernel_size) == {1})


def preactivation_layers(model: nn.Module) -> Layers:
    """Linear and convolution layers in order; the last one, if it is linear or a convolution 1x1, gives the logits and
    is left out.

    Raises:
        ValueError: the model has no other.
    """
    layers = linear_layers(model)
    if layers and is_head(layers[next(reversed(layers))]):
        layers.popitem()
    if not layers:
        raise ValueError(
            f"got {type(model).__name__} without linear or convolution layers before its classifier, expected one"
        )
    return layers


def named_layers(model: nn.Module, patterns: Iterable[str]) -> Layers:
    """The linear and convolution layers whose names fit a pattern, such as `features.*`; other modules by full name.

    Raises:
        ValueError: a pattern fits no layer; lists those there are.
    """
    every, known = dict(model.named_modules()), linear_layers(model)
    wanted: set[str] = set()
    for pattern in patterns:
        found = [name for name in known if fnmatchcase(name, pattern)] or [name for name in every if name == pattern]
        if not found:
            raise ValueError(unknown(pattern, known))
        wanted.update(found)
    return {name: module for name, module in every.items() if name in wanted}


def unknown(pattern: str, known: Iterable[str]) -> str:
    """The sentence for a pattern that fits no layer."""
    return f"got layer pattern {pattern!r}, which fits no layer; expected one that fits any of: {', '.join(known)}"


def factors(layers: Iterable[str], weights: dict[str, float]) -> dict[str, float]:
    """Factor of each layer: that of the last pattern that fits its name, else 1.

    Raises:
        ValueError: a pattern fits no layer.
    """
    names = list(layers)
    for pattern in weights:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(unknown(pattern, names))
    return {
        name: next((factor for pattern, factor in reversed(weights.items()) if fnmatchcase(name, pattern)), 1.0)
        for name in names
    }


def key(name: str) -> str:
    """A layer's name as that of a parameter or buffer, which may hold no dots and not be empty."""
    return name.replace(".", "/") or "/"


def width(layer: nn.Module) -> int | None:
    """Units or channels of a layer's output, where the layer says."""
    for attribute in ("out_features", "out_channels", "num_features"):
        if isinstance(count := getattr(layer, attribute, None), int):
            return count
    return None


def units_second(layer: nn.Module, output: Tensor) -> Tensor:
    """A layer's output as [K, D] or [K, D, positions]: a linear layer has its units last, others have them second."""
    return output.flatten(1, -2).mT if isinstance(layer, nn.Linear) and output.dim() > 2 else output


def home(layer: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device of a layer, and the dtype for its statistics: its own, but float32 at least."""
    tensor = next(layer.parameters(), torch.empty(0))
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return tensor.device, wide


def probe(model: nn.Module, layers: Layers, example_inputs: Tensor | None) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """(input, output) of every call of each layer in one forward pass in evaluation mode, which changes nothing.

    Args:
        example_inputs: [N, ...], a batch as the model takes it.

    Raises:
        ValueError: there is none, or the pass calls a layer never.
    """
    if example_inputs is None:
        raise ValueError(
            f"got no example_inputs, expected a batch to learn the shapes of {', '.join(layers)} from: pass"
            " example_inputs=inputs of any training batch"
        )
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name].append((inputs[0], output.clone()))

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            model(example_inputs)
    finally:
        for module, training in modes:
            module.training = training
        for handle in handles:
            handle.remove()
    if unseen := [name for name, calls in seen.items() if not calls]:
        raise ValueError(
            f"got layers that example_inputs never reach: {', '.join(unseen)}; expected layers to name others"
        )
    return seen
