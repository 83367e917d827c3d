"""What torch brings: DistributedDataParallel, PeriodicModelAverager and PostLocalSGDOptimizer. Imports torch only."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers.engines.base import Engine, Place


def build(model: nn.Module, place: Place) -> Engine:
    """`ddp`, `averager` or `post_local`; the latter without a warm-up of synchronous steps."""
    place.process_group()
    local = place.optimizer(model.parameters())
    if place.variant == "ddp":
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        module = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return Engine(module, local, count, lambda: steps, together=True)
    averager = PeriodicModelAverager(period=place.period, warmup_steps=0)

    def met() -> int:
        return int(averager.step) // place.period

    if place.variant == "averager":
        return Engine(model, local, lambda: averager.average_parameters(model.parameters()), met, together=True)
    module = DistributedDataParallel(model, gradient_as_bucket_view=True)
    # Its own subgroups are machines, whose workers average gradients at every step; here each worker is a machine.
    alone = [dist.new_group([rank]) for rank in range(place.workers)][place.rank]
    state = PostLocalSGDState(None, alone, 0, post_local_gradient_allreduce=False)  # type: ignore[no-untyped-call, unused-ignore]
    module.register_comm_hook(state, post_localSGD_hook)
    return Engine(module, PostLocalSGDOptimizer(local, averager), met=met, together=True)
