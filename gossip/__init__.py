"""How workers' weights meet. Usable alone, in anybody's own training loop:

exchange = gossip.build("gosgd", model, rho=0.02)
...
optimizer.step()
exchange.step()
...
exchange.close()
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from gossip.consensus import consensus_error
from gossip.job import Job
from gossip.methods import EASGD, METHODS, Downpour, Exchange, FullySync, GoSGD, MatrixExchange, NoExchange, PerSyn
from gossip.publication import consensus_of

__all__ = [
    "EASGD",
    "METHODS",
    "Downpour",
    "Exchange",
    "FullySync",
    "GoSGD",
    "Job",
    "MatrixExchange",
    "NoExchange",
    "PerSyn",
    "build",
    "consensus_error",
    "consensus_of",
]


def build(
    method: str, model: nn.Module | Sequence[nn.Module], *, job: Job | None = None, seed: int = 0, **options: Any
) -> Exchange:
    """The exchange method called `method` around `model`, as one worker of the job this process belongs to.

    Args:
        method: a name (`none`, `fully_sync`, `persyn`, `easgd`, `downpour`, `gosgd`, `matrix`) or
            `package.module:Class` of an Exchange of your own.
        model: on its device already; or the model, and behind it modules that travel with it, such as regularizers
            with parameters of their own.
        job: this worker's place; from the environment that torchrun sets by default.
        seed: of the method's own random choices.
        options: the method's options.

    Raises:
        ValueError: the method or an option is unknown or out of range.
    """
    return METHODS.get(method)(model, job=job, seed=seed, **options)
