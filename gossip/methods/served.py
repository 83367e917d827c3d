"""What the methods share whose central variable w~ a server keeps. Imports gossip.methods.base and gossip.server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor

from gossip import layout
from gossip.layout import Member
from gossip.methods.base import Exchange
from gossip.server.client import Center
from gossip.server.protocol import check_address, placement
from gossip.server.serve import Server

_processes: list[subprocess.Popen[bytes]] = []
"""Servers that this process has started; each ends when its job does."""


class Served(Exchange):
    """Base of the methods in which workers meet a central variable, each by its own clock.

    A worker that is started again takes w~, and the step count of its predecessor; its optimizer state starts empty.

    Attributes:
        center: w~, from `start` on.
    """

    rejoins = True
    center: Center

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._joined = False
        self._snapshot: dict[str, Any] = {}
        self._thread: threading.Thread | None = None

    def start(self, steps: int = 0, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Take part in the job: bring up the server if that is this worker's business, wait for the founders, take w~.

        A worker that goes on from a checkpoint keeps its weights and offers the w~ it has saved; of several the newest
        is taken.
        """
        again = self.me.generation > 0
        if again:
            before = [Member(self.me.seat, age) for age in range(self.me.generation)]
            steps = max(self.transport.open(member)[layout.STEP] for member in before)
        where = placement(self.options.serving, self.job.workers, self.job.supervised)
        check_address(self.job.directory.path.parent, self.job.workers)
        shards = self.job.workers if where == "sharded" else 1
        alive = self._serve(shards) if where == "sharded" else self._start_server()
        self.center = Center(self.transport, shards, self.flat.weights, alive)
        offer = self._snapshot.get("center", self.flat.vector)
        self._joined = self.center.join(offer, self._snapshot.get("versions", [0] * shards), interrupted)
        fresh = steps == 0 or again
        if self._joined:
            self._enter(steps, fresh)
        super().start(steps, interrupted)
        if self._joined:
            self._centered(self.center.desk)
        return again and self._joined

    def _enter(self, steps: int, fresh: bool) -> None:
        """The desk holds w~; a fresh worker has nothing of its own yet and takes it."""
        if fresh:
            self.flat.vector.copy_(self.center.desk)

    def _serve(self, shards: int) -> Callable[[], bool]:
        """Serve this worker's part of w~ from a thread."""
        server = Server(self.job.directory, self.job.rank if shards > 1 else 0, shards)
        self._thread = threading.Thread(target=server.run, name="gosgd-server", daemon=True)
        self._thread.start()
        return lambda: True

    def _start_server(self) -> Callable[[], bool]:
        """Start a server process if no launcher does and this is worker 0; it ends by itself when all have left."""
        if self.job.supervised or self.job.rank != 0:
            return lambda: True
        process = subprocess.Popen(
            [sys.executable, *self.job.server, str(self.job.directory.path)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the workers; the server goes when they have gone
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        _processes.append(process)
        return lambda: process.poll() is None

    def received(self) -> Tensor:
        """What the desk holds, on the model's device."""
        return self.center.desk.to(self.flat.vector.device)

    def central(self) -> Tensor | None:
        """w~ [D] as the server has it now."""
        return self.center.peek().clone() if self._joined else None

    def served(self) -> dict[str, float | None]:
        """Figures about the server since the start: requests, and milliseconds until an answer."""
        if not self._joined:
            return {}
        count = self.center.requests
        return {
            "requests": count,
            "answer_ms": 1e3 * self.center.waited_s / count if count else None,
            "center_version": max(self.center.versions),
        }

    def state_dict(self) -> dict[str, Any]:
        """w~ and how many moves it has behind it, for each shard."""
        center = self.central()
        return self._snapshot if center is None else {"center": center, "versions": self.center.versions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; to be called before `start`."""
        self._snapshot = state

    def _finish(self) -> None:
        """What a worker still owes w~ when it leaves."""

    def _leave(self, timeout_s: float) -> bool:
        """Leave; whoever is last takes w~. A worker that holds a part of w~ goes on serving it until then."""
        if not self._joined:
            return False
        self._finish()
        last = self.center.leave()
        if last:
            at = self.center.fetch()
            self.flat.vector.copy_(self.center.desk)
            self._moved("fetch", at=at, cuts=self.center.cuts)
        self.center.close()
        self._joined = False
        if self._thread is not None:
            self._thread.join()
        return last
