"""What a configured method sends: whole vectors per worker and step.

Imports gossip.matrices and the methods' options.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gossip.matrices import vectors
from gossip.methods.base import MethodConfig
from gossip.methods.downpour import DownpourConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.matrix import MatrixConfig
from gossip.methods.none import NoneConfig
from gossip.methods.persyn import PerSynConfig
from gossip.virtual import ConstantWeightConfig, PairwiseConfig

_STEPS = 100


def messages(config: MethodConfig, workers: int) -> float:
    """Whole weight vectors a worker sends or is sent by a server, on average per local step.

    A meeting of all workers is counted as a ring all-reduce, 2 (M - 1) / M vectors a worker; a gossip message, a
    fetch and a push as one, an elastic move with a server and a symmetric exchange as two. A user's own schedule of
    matrices is counted over its first 100 steps.

    Args:
        config: the method's options.
        workers: M.

    Raises:
        ValueError: the method is none of ours, or M is below 1.
    """
    if workers < 1:
        raise ValueError(f"got {workers} workers, expected at least 1")
    if type(config) not in _RATES:
        raise ValueError(f"got options {type(config).__name__}, expected those of a method of this package")
    return float(_RATES[type(config)](config, workers))


def _all_reduce(workers: int) -> float:
    return 2 * (workers - 1) / workers


def _persyn(config: PerSynConfig, workers: int) -> float:
    rate = float(config.rho or 0.0) if config.tau is None else 1 / config.tau
    return rate * _all_reduce(workers)


def _easgd(config: EASGDConfig, workers: int) -> float:
    return (_all_reduce(workers) if config.mode == "sync" else 2.0) / config.tau


def _gossip(config: GoSGDConfig | ConstantWeightConfig, workers: int) -> float:
    return config.rho if workers > 1 else 0.0


def _pairwise(config: PairwiseConfig, workers: int) -> float:
    return 2 * config.rho if workers > 1 else 0.0


def _matrix(config: MatrixConfig, workers: int) -> float:
    found = [config.matrix(step, workers) for step in range(_STEPS)]
    return sum(vectors(k) for k in found if k is not None) / _STEPS / workers


_RATES: dict[type[MethodConfig], Callable[[Any, int], float]] = {
    NoneConfig: lambda config, workers: 0.0,
    FullySyncConfig: lambda config, workers: _all_reduce(workers),
    PerSynConfig: _persyn,
    EASGDConfig: _easgd,
    DownpourConfig: lambda config, workers: 1 / config.n_fetch + 1 / config.n_push,
    GoSGDConfig: _gossip,
    ConstantWeightConfig: _gossip,
    PairwiseConfig: _pairwise,
    MatrixConfig: _matrix,
}
