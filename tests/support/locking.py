"""A process that holds a lock, with a forked child that outlives it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gossip.directory import JobDirectory
from gossip.locks import Probe, lock


class Holder:
    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def lock(self) -> bool:
        lock(self.path)
        return Probe(self.path).held()

    def make_a_job(self, seats: int = 1, founders: int = 1) -> str:
        return str(JobDirectory.create(seats, founders).path)

    def fork_a_child(self) -> int:
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            signal.pause()
            os._exit(0)
        return child
