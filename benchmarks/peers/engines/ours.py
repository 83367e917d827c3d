"""This project: any of its methods. Imports gossip."""

from __future__ import annotations

from typing import Any

from torch import nn

import gossip
from benchmarks.peers.engines.base import Engine, Place


def build(model: nn.Module, place: Place) -> Engine:
    """The loop of docs/own.md; the job's directory comes from the environment."""
    options: dict[str, dict[str, Any]] = {"gosgd": {"rho": 1 / place.period}, "persyn": {"tau": place.period}}
    exchange = gossip.build(place.variant, model, seed=0, **options.get(place.variant, {}))
    optimizer = place.optimizer(model.parameters())
    exchange.overlap(optimizer)
    module = exchange.wrap(model)

    def met() -> int:
        if place.variant == "fully_sync":
            return exchange.steps
        told = exchange.stats()
        return int(told.get("received") or told.get("synchronisations") or 0)

    return Engine(module, optimizer, exchange.step, met, exchange.collective)
