"""Consensus error: its definition, and an estimate from the messages that pass by anyway. Imports torch only."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

_BLOCK = 64
_BLOCKS = 64
_LATEST = 64
"""Distances still on the device that are kept; those before would weigh nothing."""


def consensus_error(weights: Tensor) -> float:
    """epsilon = sum_m ||w_m - mean||^2 (thesis section 2.5.1, with the mean of the workers in place of w~).

    Args:
        weights: [M, D], one row a worker; of a flat vector the first `Flat.weights` elements, without the buffers.
    """
    return float((weights.double() - weights.double().mean(0)).square().sum())


class OnlineEstimate:
    """Estimates epsilon without further communication: E||w_r - w_s||^2 = 2 epsilon / (M - 1).

    The distance is taken over a random sample of coordinate blocks (all of them in a small model), because over all D
    it would cost as much as the merge, and averaged over messages with an exponential decay.

    Args:
        decay: weight of the past at each message.
        seed: of the sample.
    """

    def __init__(self, decay: float = 0.9, seed: int = 0) -> None:
        self._decay = decay
        self._generator = torch.Generator().manual_seed(seed)
        self._mean = 0.0
        self._weight = 0.0
        self._draws = torch.empty(0, dtype=torch.long)
        self._next = 0
        self._under_way: deque[Tensor] = deque(maxlen=_LATEST)

    def observe(self, mine: Tensor, theirs: Tensor) -> None:
        """Take in one message before it is merged; both [D] on one device, which nobody waits for."""
        distance = self._distance(mine, theirs)
        if _on_host(distance):
            self._take(float(distance))
        else:
            self._under_way.append(distance)

    def _take(self, distance: float) -> None:
        self._mean = self._decay * self._mean + (1 - self._decay) * distance
        self._weight = self._decay * self._weight + (1 - self._decay)

    def error(self, workers: int) -> float | None:
        """The estimate of epsilon for M workers, or None before the first message; waits for the device."""
        while self._under_way:
            self._take(float(self._under_way.popleft()))
        return self._mean / self._weight * (workers - 1) / 2 if self._weight and workers > 1 else None

    def _distance(self, mine: Tensor, theirs: Tensor) -> Tensor:
        rows = mine.numel() // _BLOCK
        if rows <= _BLOCKS:
            return (mine - theirs).square().sum()
        if self._next == len(self._draws):  # drawn a thousand at a time: one draw costs as much as the gather
            draws = torch.randint(rows, (1000, _BLOCKS), generator=self._generator)
            if mine.is_cuda:  # from pages that are not locked a copy would hold up the host
                draws = draws.pin_memory()
            self._draws = draws.to(mine.device, non_blocking=True)
            self._next = 0
        sample = self._draws[self._next]
        self._next += 1
        gap = mine[: rows * _BLOCK].view(rows, _BLOCK)[sample] - theirs[: rows * _BLOCK].view(rows, _BLOCK)[sample]
        return gap.square().sum() * (mine.numel() / gap.numel())


def _on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
