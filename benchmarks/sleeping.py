"""An optimizer whose step takes a fixed time, so that nobody gains from the processors that others leave free."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch


class SleepingSGD(torch.optim.SGD):
    """SGD that sleeps after each step, for `optimizer: {name: 'benchmarks.sleeping:SleepingSGD', sleep_s: 0.1}`.

    Args:
        params: as of any optimizer.
        lr: learning rate.
        sleep_s: seconds a step sleeps.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.05, sleep_s: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self._sleep_s = sleep_s

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, and a nap."""
        loss: float | None = super().step(closure)
        if self._sleep_s:
            time.sleep(self._sleep_s)
        return loss
