"""How much of a layer one bit a neuron keeps: its ReLU replaced by a binary activation (thesis 4.4.4, table 4.2).

Imports torch only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


class BinaryActivation(nn.Module):
    """m · 1(y >= m), m = mean of the positive part of each neuron or channel (thesis 4.4.4).

    Args:
        mean: m, [D] or [C]; for inputs [N, D] or [N, C, ...].
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, y: Tensor) -> Tensor:
        mean = self.mean.view(-1, *[1] * (y.dim() - 2))
        return mean * (y >= mean)


def relus(model: nn.Module) -> dict[str, nn.ReLU]:
    """The model's ReLU modules by name, in order.

    Raises:
        ValueError: it has none; one that is written as a function cannot be replaced.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.ReLU)}
    if not found:
        kinds = sorted({type(module).__name__ for module in model.modules() if not list(module.children())})
        raise ValueError(
            f"got {type(model).__name__} without nn.ReLU modules (it has {', '.join(kinds)}), expected at least one:"
            " the binary activation takes the place of a ReLU"
        )
    return found


@torch.no_grad()
def positive_means(model: nn.Module, name: str, batches: Iterable[Batch]) -> Tensor:
    """The mean of max(y, 0) of each neuron or channel that enters the ReLU called `name`, in evaluation mode."""
    sums: list[Tensor] = []
    counts: list[int] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        y = inputs[0]
        others = [dimension for dimension in range(y.dim()) if dimension != 1]
        sums.append(y.relu().sum(others))
        counts.append(y.numel() // y.shape[1])

    handle = model.get_submodule(name).register_forward_pre_hook(hook)
    training = model.training
    model.eval()
    try:
        for x, _ in batches:
            model(x)
    finally:
        model.train(training)
        handle.remove()
    return torch.stack(sums).sum(0) / sum(counts)


def binarized(model: nn.Module, name: str, batches: Iterable[Batch]) -> tuple[nn.Module, list[nn.Parameter]]:
    """A copy of the model whose ReLU `name` is binary, and the parameters of the layers that are called after it.

    Args:
        batches: over which the means are taken; the first tells the order of calls.
    """
    kept = list(batches)
    mean = positive_means(model, name, kept)
    changed = copy.deepcopy(model)
    changed.set_submodule(name, BinaryActivation(mean))
    order = _order(changed, kept[0][0])
    later = order[order.index(name) + 1 :]
    earlier = {id(p) for called in order[: order.index(name)] for p in changed.get_submodule(called).parameters(False)}
    after = {id(p): p for called in later for p in changed.get_submodule(called).parameters(False)}
    return changed, [parameter for number, parameter in after.items() if number not in earlier]


@torch.no_grad()
def _order(model: nn.Module, x: Tensor) -> list[str]:
    """Names of the modules without children in the order of their first calls."""
    called: dict[str, None] = {}

    def watch(name: str) -> Any:
        return lambda module, inputs: called.setdefault(name)

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in leaves]
    training = model.training
    model.eval()
    try:
        model(x)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return list(called)


def tune(model: nn.Module, parameters: list[nn.Parameter], batches: Iterable[Batch], lr: float = 1e-3) -> None:
    """Fine-tune some of a model's parameters by Adam, the others as they are; normalization stays in evaluation mode.

    Args:
        batches: one step each.
    """
    model.eval()
    chosen = {id(parameter) for parameter in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for x, y in batches:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()
