"""A run's regularizers on its model, and what of them travels with the model's weights.

Imports regularizers, trainers.data and trainers.schema.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from configs.base import Custom, check_call
from regularizers import REGULARIZERS, Regularizer
from trainers.data.base import Data
from trainers.schema import Run, options


def build(run: Run, model: nn.Module, data: Data) -> list[Regularizer]:
    """The regularizers that `run` names, hooked to the model.

    Args:
        model: on its device.
        data: a batch of which shows parameters of a regularizer their shapes.

    Raises:
        ValueError: an option does not fit the model or the batch.
    """
    if not run.regularizers:
        return []
    batches = data.batches(rank=0, world_size=1, seed=run.seed)
    inputs, _ = next(batches)
    batches.close()
    return [_one(model, config, inputs) for config in run.regularizers]


def _one(model: nn.Module, config: Any, inputs: Any) -> Regularizer:
    kind = REGULARIZERS.get(config.name)
    if not (isinstance(kind, type) and issubclass(kind, Regularizer)):
        raise ValueError(f"regularizer {config.name!r} is {kind!r}, expected a subclass of regularizers.Regularizer")
    given = config.options("name") if isinstance(config, Custom) else options(config)
    if "example_inputs" in inspect.signature(kind).parameters:
        given["example_inputs"] = inputs
    check_call(REGULARIZERS.kind, config.name, kind, model, **given)
    return kind(model, **given)


class Travelling(nn.Module):
    """The tensors of a regularizer that are exchanged; they are its own, not copies.

    Args:
        averages: whether floating buffers are, besides parameters.
    """

    def __init__(self, regularizer: Regularizer, averages: bool) -> None:
        super().__init__()
        for name, parameter in regularizer.named_parameters():
            self.register_parameter(name.replace(".", "/"), parameter)
        for name, buffer in regularizer.named_buffers() if averages else ():
            if buffer.is_floating_point():
                self.register_buffer(name.replace(".", "/"), buffer)


def travelling(run: Run, model: nn.Module, regularizers: Sequence[Regularizer]) -> list[nn.Module]:
    """The model, and behind it what travels of its regularizers: learned parameters, moving averages if asked for."""
    found = [Travelling(regularizer, run.train.exchange_regularizer_state) for regularizer in regularizers]
    return [model, *(one for one in found if one.state_dict())]
