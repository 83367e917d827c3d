"""What a device has been asked to do, and what is to be said once it has done it. Imports nothing of this project.

On a GPU a copy or a merge has only been asked for when the call returns. What others are told of it waits here for the
event behind it; the host never does. Everything is said in the order of asking: so the words of a member show one
moment of the protocol after the other as without a device, only later, and mass that a merge brings is never passed on
before its receipt is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol


class Event(Protocol):
    """A point in a device's work, as `torch.Event` is one."""

    def query(self) -> bool:
        """Whether the device has come to it."""

    def synchronize(self) -> None:
        """Wait until the device has come to it."""


class Works:
    """Work under way, oldest first."""

    def __init__(self) -> None:
        self.open: deque[tuple[Event | None, Callable[[], None]]] = deque()

    def after(self, event: Event | None, say: Callable[[], None]) -> None:
        """Call `say` once a device has come to `event`, and has been so with all before; now, if it has (None)."""
        if event is None and not self.open:
            say()
        else:
            self.open.append((event, say))

    def settle(self) -> None:
        """Say what can be said by now; never waits."""
        while self.open and ((event := self.open[0][0]) is None or event.query()):
            self.open.popleft()[1]()

    def finish(self) -> None:
        """Wait for the device, and say everything."""
        while self.open:
            event = self.open[0][0]
            if event is not None:
                event.synchronize()
            self.open.popleft()[1]()
