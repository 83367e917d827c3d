"""How often, and after what delay, a process that keeps failing is started again. Imports nothing of this project.

On preemptible machines a long job sees any number of deaths, so only failures in a row count: a process that has lived
for a while has shown that it can, and is forgiven.
"""

from __future__ import annotations

SETTLED_S = 60.0
_LONGEST_S = 8.0


class Budget:
    """The restarts of one process.

    Args:
        restarts: how many are allowed in a row, run.restarts.
    """

    def __init__(self, restarts: int) -> None:
        self._restarts = restarts
        self._failures = 0
        self._started = 0.0

    def started(self, now: float) -> None:
        """Its process was started, on a clock in seconds."""
        self._started = now

    def failed(self, now: float) -> float | None:
        """Its process has ended.

        Returns:
            Seconds until it may be started again: 0 at first, then 1, 2, 4 ... 8; None when the budget is used up.
        """
        if now - self._started >= SETTLED_S:
            self._failures = 0
        self._failures += 1
        if self._failures > self._restarts:
            return None
        return min(_LONGEST_S, 2.0 ** (self._failures - 2)) if self._failures > 1 else 0.0

    @property
    def used(self) -> str:
        """Which restart in a row the next one is, for a person."""
        return f"restart {self._failures} of {self._restarts}"
