"""What a configured method looks like on paper: its matrix, how fast it mixes, what it costs, what would cost less.

Imports gossip.matrices, gossip.costs and gossip.theory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gossip import matrices
from gossip.costs import messages
from gossip.matrices import Matrix
from gossip.methods.base import MethodConfig
from gossip.methods.downpour import DownpourConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.matrix import MatrixConfig
from gossip.methods.none import NoneConfig
from gossip.methods.persyn import PerSynConfig

_EQUAL_MASSES = 1 / 3
"""a = lambda_s / (lambda_s + 2 lambda_r) where sender and receiver hold the same mass."""
_SCHEDULE = 100


@dataclass(frozen=True)
class Portrait:
    """A method on paper.

    Attributes:
        event: which exchange `exchange` is the matrix of.
        exchange: K of one exchange, [M+1, M+1].
        step: E K of one step of every worker, over chance and phase.
    """

    event: str
    exchange: Matrix
    step: Matrix


def portrait(config: MethodConfig, workers: int) -> Portrait:
    """The matrices of a configured method.

    Args:
        config: the method's options.
        workers: M.

    Raises:
        ValueError: the method is none of ours, or its options do not fit M.
    """
    if type(config) not in _PORTRAITS:
        raise ValueError(f"got options {type(config).__name__}, expected those of a method of this package")
    config.check(workers)
    return _PORTRAITS[type(config)](config, workers)


def _at_rate(exchange: Matrix, rate: float) -> Matrix:
    return (1 - rate) * np.eye(len(exchange)) + rate * exchange


def _none(config: NoneConfig, workers: int) -> Portrait:
    return Portrait("no exchange", matrices.none(workers), matrices.none(workers))


def _fully_sync(config: FullySyncConfig, workers: int) -> Portrait:
    matrix = matrices.fully_sync(workers)
    return Portrait("every step", matrix, matrix)


def _persyn(config: PerSynConfig, workers: int) -> Portrait:
    matrix = matrices.persyn(workers)
    rate = float(config.rho or 0.0) if config.tau is None else 1 / config.tau
    return Portrait("a synchronisation", matrix, _at_rate(matrix, rate))


def _easgd(config: EASGDConfig, workers: int) -> Portrait:
    alpha = config.rate(workers)
    if config.mode == "sync":
        matrix = matrices.easgd(workers, alpha)
        return Portrait(f"an elastic move of all, alpha = {alpha:g}", matrix, _at_rate(matrix, 1 / config.tau))
    turn = _at_rate(matrices.expected_easgd_async(workers, alpha), 1 / config.tau)
    return Portrait(
        f"an elastic move of worker 1, alpha = {alpha:g}",
        matrices.easgd_async(workers, 1, alpha),
        np.linalg.matrix_power(turn, workers),
    )


def _downpour(config: DownpourConfig, workers: int) -> Portrait:
    fetches = matrices.product(matrices.downpour_fetch(workers, worker) for worker in range(1, workers + 1))
    return Portrait(
        "a fetch of worker 1 (a push adds its updates to w~)",
        matrices.downpour_fetch(workers, 1),
        _at_rate(fetches, 1 / config.n_fetch),
    )


def _gosgd(config: GoSGDConfig, workers: int) -> Portrait:
    if workers == 1:
        return Portrait("nobody to send to", matrices.none(1), matrices.none(1))
    tick = matrices.expected_gosgd(workers, config.rho, _EQUAL_MASSES)
    return Portrait(
        "a message from worker 1 to worker 2 at equal masses, a = 1/3",
        matrices.gosgd(workers, 1, 2, _EQUAL_MASSES),
        np.linalg.matrix_power(tick, workers),
    )


def _matrix(config: MatrixConfig, workers: int) -> Portrait:
    identity = np.eye(workers + 1)
    found = [config.matrix(step, workers) for step in range(_SCHEDULE)]
    first = next((step for step, matrix in enumerate(found) if matrix is not None), None)
    mean = np.mean([identity if matrix is None else matrix for matrix in found], axis=0)
    if first is None:
        return Portrait(f"no exchange in the first {_SCHEDULE} steps", identity, mean)
    exchange = found[first]
    assert exchange is not None
    return Portrait(f"the exchange after step {first}", exchange, mean)


_PORTRAITS: dict[type[MethodConfig], Callable[[Any, int], Portrait]] = {
    NoneConfig: _none,
    FullySyncConfig: _fully_sync,
    PerSynConfig: _persyn,
    EASGDConfig: _easgd,
    DownpourConfig: _downpour,
    GoSGDConfig: _gosgd,
    MatrixConfig: _matrix,
}


def alternatives(config: MethodConfig, workers: int) -> Iterator[tuple[str, MethodConfig]]:
    """What else one could configure: half and twice as much of the same, and other methods at about the same messages.

    Yields:
        A name as one would write it in YAML, and the options.
    """
    sent = messages(config, workers)
    if isinstance(config, GoSGDConfig):
        for rho in _rates(config.rho):
            yield _named(config.model_copy(update={"rho": rho}), "rho", "peers")
        for peers in ("uniform", "adaptive"):
            if peers != config.peers:
                yield _named(config.model_copy(update={"peers": peers}), "rho", "peers")
    elif isinstance(config, PerSynConfig) and config.tau is not None:
        for tau in _periods(config.tau):
            yield _named(PerSynConfig(tau=tau), "tau")
    elif isinstance(config, PerSynConfig):
        for rho in _rates(config.rho or 0.0):
            yield _named(PerSynConfig(rho=rho), "rho")
    elif isinstance(config, EASGDConfig):
        for tau in _periods(config.tau):
            yield _named(config.model_copy(update={"tau": tau}), "tau", "mode")
    if sent > 0 and workers > 1:
        if not isinstance(config, GoSGDConfig):
            yield _named(GoSGDConfig(rho=_rounded(min(1.0, sent))), "rho", "peers")
            yield _named(GoSGDConfig(rho=_rounded(min(1.0, sent)), peers="adaptive"), "rho", "peers")
        meetings = sent / (2 * (workers - 1) / workers)
        if not isinstance(config, PerSynConfig) and meetings <= 1:
            yield _named(PerSynConfig(rho=_rounded(meetings)), "rho")
        if not isinstance(config, EASGDConfig):
            yield _named(EASGDConfig(tau=max(1, round(1 / meetings))), "tau", "mode")
            yield _named(EASGDConfig(tau=max(1, round(2 / sent)), mode="async"), "tau", "mode")
        if not isinstance(config, DownpourConfig):
            period = max(1, round(2 / sent))
            yield _named(DownpourConfig(n_fetch=period, n_push=period), "n_fetch", "n_push")
    if not isinstance(config, FullySyncConfig):
        yield _named(FullySyncConfig())


def named(config: MethodConfig) -> str:
    """A method with the options that differ from the defaults."""
    fields = type(config).model_fields.items()
    changed = [key for key, field in fields if key not in ("method", "trace") and getattr(config, key) != field.default]
    return _named(config, *changed)[0]


def _named(config: MethodConfig, *keys: str) -> tuple[str, MethodConfig]:
    values = {key: getattr(config, key) for key in keys}
    shown = [f"{key}: {value:g}" if isinstance(value, float) else f"{key}: {value}" for key, value in values.items()]
    return ", ".join([f"method: {config.method}", *shown]), config  # type: ignore[attr-defined]


def _rates(rate: float) -> list[float]:
    return sorted({rate / 2, min(1.0, 2 * rate)} - {rate})


def _periods(tau: int) -> list[int]:
    return sorted({max(1, tau // 2), 2 * tau} - {tau})


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
