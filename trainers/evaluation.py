"""Loss and accuracy of a model, and of the consensus of several. Imports gossip and trainers.data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gossip.flat import Flat
from trainers.data.sources import Batch


class Score(NamedTuple):
    """Mean cross-entropy and accuracy in [0, 1] over a set."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch]) -> Score:
    """Score a model in evaluation mode; its mode is restored.

    Args:
        batches: (x [B, ...], y [B]) pairs.

    Raises:
        ValueError: there is nothing to evaluate on.
    """
    training = model.training
    model.eval()
    loss = correct = count = 0.0
    try:
        for inputs, targets in batches:
            logits = model(inputs)
            loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
            correct += int((logits.argmax(1) == targets).sum())
            count += len(targets)
    finally:
        model.train(training)
    if not count:
        raise ValueError("got an empty set to evaluate on, expected at least one sample")
    return Score(loss / count, correct / count)


def counters(model: nn.Module) -> dict[str, Tensor]:
    """A model's buffers that are not of floating point, by name: what is not in its weight vector."""
    tensors = {name: state for name, state in model.state_dict().items() if isinstance(state, Tensor)}
    return {name: tensor for name, tensor in tensors.items() if not tensor.is_floating_point()}


@torch.no_grad()
def set_counters(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Give a model the counters of another one of its kind; those that it has not, or of other shapes, are left out."""
    for name, tensor in counters(model).items():
        if name in given and given[name].shape == tensor.shape:
            tensor.copy_(given[name])


class ConsensusModel:
    """A model of its own for the consensus weights, so that evaluating does not touch the one that trains.

    Args:
        modules: copied; what the exchange was built with: the model, and what travels with it.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        copied = copy.deepcopy(list(modules))
        self._trained, self.model = modules[0], copied[0]
        for module in copied:
            module.requires_grad_(False)
        self._flat = Flat(copied)

    def load(self, vector: Tensor) -> None:
        """Give the model the weights `vector` [D], and what no mean is taken of (counts, masks) as it is here."""
        self._flat.vector.copy_(vector)
        set_counters(self.model, counters(self._trained))

    def score(self, vector: Tensor, batches: Iterable[Batch]) -> Score:
        """Score the model with weights `vector` [D]."""
        self.load(vector)
        return evaluate(self.model, batches)
