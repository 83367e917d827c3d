"""Weights on their way into a message and out of one. Imports gossip's consensus, devices, flat and works."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from gossip.consensus import OnlineEstimate
from gossip.devices import Device, device_of
from gossip.flat import Flat
from gossip.works import Event

_OBSERVATION_STEPS = 10
"""Steps between two looks at the distance to a message: it costs as much as the merge itself in a small model."""
_PIECE = 1 << 17
_LARGEST = torch.finfo(torch.float16).max


class Messages:
    """Writes the weights into slots and merges slots into the weights, as the device does it best.

    Args:
        flat: the weights.
        seed: of the sample that the consensus error is estimated from.
        device: where they are; found out by default.

    Attributes:
        estimate: of the consensus error.
    """

    def __init__(self, flat: Flat, seed: int, device: Device | None = None) -> None:
        self._flat = flat
        self._device = device_of(flat.vector) if device is None else device
        self._overlaps = False
        self.estimate = OnlineEstimate(seed=seed)
        self._observe_at = 0
        self._staleness_sum = self._staleness_max = self._merged = 0

    def overlap(self, optimizer: Optimizer) -> None:
        """Let copies go on until just before the optimizer changes the weights."""
        optimizer.register_step_pre_hook(lambda *_: self._device.guard())
        self._overlaps = True

    def write(self, slot: Tensor) -> Event | None:
        """Copy the weights into a slot [D]; what comes behind waits for it on the device."""
        event = self._device.snapshot(slot, self._flat.vector, self._flat.weights)
        if not self._overlaps:
            self._device.guard()
        return event

    def merge(self, slot: Tensor, weight: float, steps: int) -> Event | None:
        """w <- (1 - weight) w + weight slot.

        Args:
            slot: [D].
            weight: in (0, 1].
            steps: local steps behind the weights.
        """
        vector, weights = self._flat.vector, self._flat.weights
        self._device.guard()
        theirs = self._device.here(slot)
        if weight != 1.0 and steps >= self._observe_at:
            self._observe_at = steps + _OBSERVATION_STEPS
            self.estimate.observe(vector[:weights], theirs[:weights])
        for mine, part in self._parts(vector, theirs):
            if weight == 1.0:
                mine.copy_(_widened(part, vector.dtype))
            else:
                mine.lerp_(_widened(part, vector.dtype), weight)
        return self._device.mark()

    @staticmethod
    def _parts(vector: Tensor, theirs: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Both in pieces that fit into a cache where they have to be converted on the CPU, else whole."""
        if theirs.dtype == vector.dtype or vector.device.type != "cpu":
            return ((vector, theirs),)
        return zip(torch.split(vector, _PIECE), torch.split(theirs, _PIECE), strict=True)

    def aged(self, steps: int) -> None:
        """Note that a message was merged that many steps after it was sent."""
        self._staleness_sum += max(0, steps)
        self._staleness_max = max(self._staleness_max, steps)
        self._merged += 1

    def staleness(self) -> tuple[float | None, int | None]:
        """Mean and largest number of steps between a message and its merge, since the last call."""
        found = (self._staleness_sum / self._merged, self._staleness_max) if self._merged else (None, None)
        self._staleness_sum = self._staleness_max = self._merged = 0
        return found


def _widened(part: Tensor, dtype: torch.dtype) -> Tensor:
    """A part of a message in the weights' own precision.

    What float16 has no room for arrives as an infinity, which no average would ever get rid of: a variance of batch
    normalization is soon so large. The largest number there is does less harm.
    """
    wide = part.to(dtype)
    return wide.clamp_(-_LARGEST, _LARGEST) if part.dtype == torch.float16 and dtype != torch.float16 else wide
