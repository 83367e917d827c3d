"""Which curves `gosgd consensus` draws: methods by name, at each rate. Imports the methods' options, gossip.costs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

from configs.base import suggestion
from gossip import costs
from gossip.methods.base import MethodConfig
from gossip.methods.downpour import DownpourConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.none import NoneConfig
from gossip.methods.persyn import PerSynConfig
from gossip.virtual import PairwiseConfig

Options = Callable[[float, float | None, int], MethodConfig]
"""The options of a method at a rate, with alpha where one was given, for M workers."""


def _easgd(mode: str) -> Options:
    def options(rho: float, alpha: float | None, workers: int) -> MethodConfig:
        config = EASGDConfig.of(alpha=alpha, tau=_period(rho), mode=mode)
        config.rate(workers)
        return config

    return options


def _downpour(rho: float, alpha: float | None, workers: int) -> MethodConfig:
    return DownpourConfig.of(n_fetch=_period(rho), n_push=_period(rho))


def _period(rho: float) -> int:
    if rho <= 0:
        raise ValueError(f"got --rhos {rho:g} for a method with a period of round(1/rho) steps, expected above 0")
    return round(1 / rho)


WITHOUT_RATE: dict[str, Options] = {
    "none": lambda rho, alpha, workers: NoneConfig(),
    "fully_sync": lambda rho, alpha, workers: FullySyncConfig(),
}
WITH_RATE: dict[str, Options] = {
    "persyn": lambda rho, alpha, workers: PerSynConfig.of(rho=rho),
    "gosgd": lambda rho, alpha, workers: GoSGDConfig.of(rho=rho),
    "gosgd_adaptive": lambda rho, alpha, workers: GoSGDConfig.of(rho=rho, peers="adaptive"),
    "easgd": _easgd("sync"),
    "easgd_async": _easgd("async"),
    "downpour": _downpour,
    "pairwise": lambda rho, alpha, workers: PairwiseConfig.of(rho=rho),
}


@dataclass(frozen=True)
class Case:
    """One curve.

    Attributes:
        method: as given.
        rho: its rate; None for a method without.
        config: its options.
        messages: vectors sent per worker and step.
    """

    method: str
    rho: float | None
    config: MethodConfig
    messages: float


def cases(given: argparse.Namespace) -> list[Case]:
    """What `--methods`, `--rhos` and `--alpha` ask for.

    Raises:
        ValueError: one of them is wrong.
    """
    names = _words(given.methods, "--methods", "gosgd,persyn")
    rates = [_rate(word) for word in _words(given.rhos, "--rhos", "0.01,0.1,0.4")]
    found = []
    for name in names:
        if name in WITHOUT_RATE:
            made: list[tuple[float | None, MethodConfig]] = [(None, WITHOUT_RATE[name](0.0, None, given.workers))]
        elif name in WITH_RATE:
            made = [(rho, WITH_RATE[name](rho, given.alpha, given.workers)) for rho in rates]
        else:
            known = sorted(WITHOUT_RATE | WITH_RATE)
            raise ValueError(
                f"--methods: got unknown method {name!r}, expected some of {', '.join(known)}{suggestion(name, known)}"
            )
        found += [Case(name, rho, config, costs.messages(config, given.workers)) for rho, config in made]
    if given.alpha is not None and not any(name.startswith("easgd") for name in names):
        raise ValueError(f"--alpha: got {given.alpha:g} for {', '.join(names)}, expected easgd among --methods")
    return found


def _words(text: str, option: str, example: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ValueError(f"{option}: got {text!r}, expected a list such as {example}")
    return list(dict.fromkeys(words))


def _rate(word: str) -> float:
    try:
        rate = float(word)
    except ValueError:
        rate = math.nan
    if not 0 <= rate <= 1:
        raise ValueError(f"--rhos: got {word}, expected numbers from 0 to 1 such as 0.01,0.1,0.4")
    return rate
