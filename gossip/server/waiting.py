"""How a worker that waits for a server of the central variable says so. Imports the standard library only."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger("gosgd")
_COMPLAINT_S = 5.0
PAUSE_S = 0.01
"""Between two looks for a server on this host."""


class Waiting:
    """Says every few seconds what a worker waits for, and for how long it has.

    Args:
        seat: of the worker.
        what: it waits for.
    """

    def __init__(self, seat: int, what: str) -> None:
        self._seat, self._what = seat, what
        self._began = self._said = time.monotonic()

    @property
    def waited_s(self) -> float:
        """For how long it has."""
        return time.monotonic() - self._began

    def complain(self) -> None:
        """Say so, if the last time was not just now."""
        now = time.monotonic()
        if now - self._said >= _COMPLAINT_S:
            self._said = now
            _log.warning("worker %d: has waited %.0f s for %s", self._seat, self.waited_s, self._what)
