"""What a server measures about itself. Imports the standard library only."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Figures:
    """What happened since the last report."""

    since: float
    operations: Counter[str] = field(default_factory=Counter)
    waited: dict[int, list[float]] = field(default_factory=dict)
    busy: float = 0.0

    def note(self, seat: int, do: str, waited: float, busy: float) -> None:
        """A request of a worker was handled: how long it waited for its turn, and took."""
        if not self.operations:  # an idle time before does not count
            self.since = time.monotonic() - busy
        self.operations[do] += 1
        self.waited.setdefault(seat, []).append(waited)
        self.busy += busy

    def summary(self, now: float) -> dict[str, Any]:
        """Requests a second by kind, seconds they waited for their turn by worker, and the share of time at work."""
        elapsed = max(now - self.since, 1e-9)
        return {
            "per_second": {do: count / elapsed for do, count in sorted(self.operations.items())},
            "waiting_s": {
                str(seat): {"mean": sum(all_of) / len(all_of), "max": max(all_of)}
                for seat, all_of in sorted(self.waited.items())
            },
            "busy": self.busy / elapsed,
        }
