"""Copies and merges where weights are: at once on the CPU, on streams of a GPU. Imports gossip.driver, works and torch.

A queue's messages pass through four places on an accelerator: the snapshot is copied on a stream of its own, behind all
that has been asked of the weights so far; it is announced when the event behind the copy has come; the receiver merges
it on the stream it computes on; it is acknowledged when the event behind that has come. The host waits for none.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from gossip.driver import Driver, DriverError
from gossip.works import Event

_log = logging.getLogger("gosgd")


class Device(ABC):
    """Where a worker's weights are."""

    @abstractmethod
    def snapshot(self, slot: Tensor, vector: Tensor, weights: int) -> Event | None:
        """Copy `vector` [D] into a slot [D], as it is after all that was asked for before.

        Args:
            weights: elements of the vector that only an optimizer or a merge changes; the forward pass may change
                those behind (statistics of batch normalization).

        Returns:
            The event behind the copy; None if it is over.
        """

    @abstractmethod
    def here(self, slot: Tensor) -> Tensor:
        """A slot's vector [D] where the weights are; good until the next call."""

    @abstractmethod
    def mark(self) -> Event | None:
        """The event behind all that was asked for so far; None if that is over."""

    @abstractmethod
    def guard(self) -> None:
        """Let nothing that is asked for from now on overtake a snapshot: the vector is about to be changed."""


class Host(Device):
    """The CPU: everything is over when it has been asked for."""

    def snapshot(self, slot: Tensor, vector: Tensor, weights: int) -> Event | None:
        """Copy `vector` into a slot."""
        slot.copy_(vector)
        return None

    def here(self, slot: Tensor) -> Tensor:
        """The slot itself."""
        return slot

    def mark(self) -> Event | None:
        """Nothing is under way."""
        return None

    def guard(self) -> None:
        """Nothing is under way."""


class Pages:
    """Pages of slots in the host's memory, locked so that a device copies them without holding up the host.

    Args:
        device: which.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._driver: Driver | None = None
        self._locked: set[int] = set()
        self._complained = False

    @property
    def complained(self) -> bool:
        """Whether pages could not be locked."""
        return self._complained

    def lock(self, slot: Tensor) -> None:
        """Lock the pages that a slot lies in, until it goes."""
        storage = slot.untyped_storage()
        start = storage.data_ptr()
        if start in self._locked:
            return
        self._locked.add(start)
        try:
            ours = self._register(start, storage.nbytes())
        except DriverError as error:
            if not self._complained:
                self._complained = True
                _log.warning("the pages of slots cannot be locked: copies of them hold up the host (%s)", error)
            return
        # Another slot may be mapped where this one was: its pages would be taken for those that were locked.
        whole = slot if slot._base is None else slot._base
        weakref.finalize(whole, self._unlock, start, ours).atexit = False

    def _unlock(self, start: int, ours: bool) -> None:
        self._locked.discard(start)
        if ours:
            with contextlib.suppress(DriverError):  # at the very end the context may be gone
                self._unregister(start)

    def _register(self, start: int, size: int) -> bool:
        if self._driver is None:
            self._driver = Driver(self._device)
        return self._driver.lock(start, size)

    def _unregister(self, start: int) -> None:
        assert self._driver is not None
        self._driver.unlock(start)


class Streams:
    """What an accelerator offers, one method for each thing that the order of work depends on.

    Args:
        device: which.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pages = Pages(device)
        self._side: Any = torch.Stream(device)

    def copy(self, to: Tensor, of: Tensor, aside: bool = False) -> None:
        """Ask for a copy, on the stream that computes or on the one aside."""
        for tensor in (to, of):
            if tensor.device.type == "cpu":
                self.pages.lock(tensor)
        with self._side if aside else contextlib.nullcontext():
            to.copy_(of, non_blocking=True)

    def record(self, aside: bool = False) -> Event:
        """An event behind what was asked of a stream so far."""
        event: Any = torch.Event(self.device)
        event.record(self._side if aside else torch.accelerator.current_stream(self.device))
        return event  # type: ignore[no-any-return]

    def wait(self, event: Event, aside: bool = False) -> None:
        """Let a stream, not the host, wait for an event."""
        stream: Any = self._side if aside else torch.accelerator.current_stream(self.device)
        stream.wait_event(event)


class Accelerator(Device):
    """A GPU or its like: what is asked for is done later, in order.

    Args:
        streams: of the device.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._copying: Event | None = None
        self._staging: Tensor | None = None

    def snapshot(self, slot: Tensor, vector: Tensor, weights: int) -> Event | None:
        """Ask for a copy aside; what the forward pass changes is copied before it, on the stream that computes."""
        streams = self._streams
        if weights < len(vector):
            streams.copy(slot[weights:], vector[weights:])
        streams.wait(streams.record(), aside=True)
        streams.copy(slot[:weights], vector[:weights], aside=True)
        self._copying = streams.record(aside=True)
        return self._copying

    def here(self, slot: Tensor) -> Tensor:
        """The slot itself, wherever on this host's devices it is; a copy of one in the host's memory."""
        if slot.device == self._streams.device:
            return slot
        if self._staging is None or self._staging.dtype != slot.dtype:
            self._staging = torch.empty(slot.shape, dtype=slot.dtype, device=self._streams.device)
        self._streams.copy(self._staging, slot)
        return self._staging

    def mark(self) -> Event | None:
        """An event on the stream that computes."""
        return self._streams.record()

    def guard(self) -> None:
        """Have the stream that computes wait for the snapshot, if one is under way."""
        if self._copying is not None:
            self._streams.wait(self._copying)
            self._copying = None


def device_of(vector: Tensor) -> Device:
    """How to copy and merge where a vector is."""
    return Host() if vector.device.type == "cpu" else Accelerator(Streams(vector.device))
