"""Fully synchronous SGD: gradients are averaged at every step (thesis alg. 1).

K has every row (0, 1/M, ..., 1/M): for plain SGD averaging gradients equals averaging weights.
Floating buffers, such as batch-norm statistics, are averaged at every step too.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gossip.methods.base import METHODS, MethodConfig
from gossip.methods.collective import Collective

# `step` averages buffers; DDP would hand out rank 0's at every forward pass. Named otherwise from torch 2.13 on.
_NAMES = inspect.signature(DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False
}


class _Together(nn.Module):
    """A model, with modules whose parameters its forward pass or its loss uses."""

    def __init__(self, model: nn.Module, beside: list[nn.Module]) -> None:
        super().__init__()
        self.model = model
        self.beside = nn.ModuleList(beside)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.model(*inputs, **options)


class FullySyncConfig(MethodConfig):
    """Options of `fully_sync`."""

    method: Literal["fully_sync"] = "fully_sync"


@METHODS.register(FullySyncConfig)
class FullySync(Collective):
    """Gradient averaging by torch's DistributedDataParallel, which overlaps it with the backward pass."""

    Options = FullySyncConfig
    _wrapped = False

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model in DDP, with what travels beside it; alone, the model itself."""
        self._wrapped = True
        self.meet()
        if self.job.workers == 1:
            return model
        whole = _Together(model, self._beside) if self._beside else model
        return DistributedDataParallel(whole, gradient_as_bucket_view=True, **_OWN_BUFFERS)

    def step(self) -> None:
        """Count the step and average the buffers; the gradients met in the backward pass.

        Raises:
            ValueError: the model was never wrapped, so that they did not.
        """
        if self.job.workers > 1 and not self._wrapped:
            raise ValueError(
                "got a step of fully_sync without its wrapper, expected the loop to call"
                " `model = exchange.wrap(model)` first; else no gradient is averaged"
            )
        self.count_step()
        buffers = self.flat.vector[self.flat.weights :]
        if self.job.workers > 1 and len(buffers):
            dist.all_reduce(buffers)
            buffers.div_(self.job.workers)
        self._met("average")
