"""A device on which nothing happens before a test says so, and which remembers what it was asked for, in order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class FakeEvent:
    """Behind the first so many works of the stream aside, or of the one that computes."""

    def __init__(self, streams: FakeStreams, works: int) -> None:
        self._streams, self._works = streams, works

    def query(self) -> bool:
        self._streams.queries += 1
        return self._streams.told >= self._works

    def synchronize(self) -> None:
        self._streams.log.append("the host waits")
        self._streams.finish()


class FakeStreams:
    """In place of `gossip.devices.Streams`. Copies aside are made as late as they may be; `tell` lets events come.

    Args:
        device: said to be it.

    Attributes:
        log: what was asked for.
        told: works whose events have come.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.log: list[str] = []
        self.asked = self.made = self.told = self.queries = 0
        self._waiting: list[Callable[[], object]] = []

    def copy(self, to: Tensor, of: Tensor, aside: bool = False) -> None:
        self.log.append(f"copy {len(to)} {'aside' if aside else 'in line'}")
        self.asked += 1
        self._waiting.append(lambda: to.copy_(of))
        if not aside:
            self._make(self.asked)

    def record(self, aside: bool = False) -> FakeEvent:
        self.log.append(f"record {'aside' if aside else 'in line'}")
        if not aside:  # what this stream computes on the test's own tensors happens without us
            self.asked += 1
            self._waiting.append(lambda: None)
        return FakeEvent(self, self.asked)

    def wait(self, event: FakeEvent, aside: bool = False) -> None:
        self.log.append(f"wait {'aside' if aside else 'in line'}")
        if not aside:  # whatever computes from now on finds the copy made, though nobody has been told
            self._make(event._works)

    def _make(self, until: int) -> None:
        while self.made < until:
            self._waiting[self.made]()
            self.made += 1

    def tell(self) -> None:
        """Everything asked for so far is over, and known to be."""
        self.finish()

    def finish(self) -> None:
        self._make(self.asked)
        self.told = self.asked


class LateStreams(FakeStreams):
    """Whose events come at the third look: copies aside are made, and everything is told of, some steps late."""

    def record(self, aside: bool = False) -> FakeEvent:
        super().record(aside)
        self.log.clear()
        return LateEvent(self, self.asked)


class LateEvent(FakeEvent):
    """One that needs three looks."""

    _looks = 0

    def query(self) -> bool:
        self._looks += 1
        if self._looks >= 3:
            self._streams._make(self._works)
            self._streams.told = max(self._streams.told, self._works)
        return super().query()
