"""Servers of the central variable, and workers that do nothing but ask them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossip.directory import JobDirectory
from gossip.server.client import Center
from gossip.server.serve import Server
from gossip.transports.shared_memory import SharedMemory

D = 1000


class Mute(Server):
    """Dies when it has made its third move, and before it can say so."""

    def _handle(self, client, message):
        answer = super()._handle(client, message)
        if answer and answer.get("number") == 3:
            os._exit(1)
        return answer


class Running:
    """A server in a thread of this process."""

    def __init__(self, directory: JobDirectory, **options: Any) -> None:
        self.figures: list[Any] = []
        self.server = Server(directory, report=lambda version, found: self.figures.append(found), **options)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def end(self) -> None:
        """Tell it to, and see that it does."""
        self.server.end()
        self.thread.join(10)
        assert not self.thread.is_alive()


class Serving:
    """A server that may be followed by another, in a process of its own."""

    def __init__(self, path: str, folder: Path | None = None) -> None:
        server = Server(JobDirectory.open(path), restarts=True, folder=folder)
        threading.Thread(target=server.run, daemon=True).start()


class Dying:
    """A `Mute` in a process of its own."""

    def __init__(self, path: str) -> None:
        threading.Thread(target=Mute(JobDirectory.open(path)).run, daemon=True).start()


class Pusher:
    """A worker that does nothing but push ones."""

    def __init__(self, path: str, seat: int, dimension: int) -> None:
        directory = JobDirectory.open(path)
        self.transport = SharedMemory(directory, seat, dimension, torch.float32, 0)
        self.center = Center(self.transport, 1, dimension, patient=True)
        self.center.join(torch.zeros(dimension), [0], lambda: False)

    def push(self, count: int) -> list[int]:
        """The numbers of so many moves."""
        numbers = []
        for _ in range(count):
            self.center.desk.fill_(1.0)
            numbers += self.center.flush(1.0)
        return numbers

    def pull(self, count: int) -> tuple[list[int], torch.Tensor]:
        """Elastic moves of a worker that adds one to its weights before each."""
        w, numbers = torch.zeros(self.transport.dimension, dtype=self.transport.dtype), []
        for _ in range(count):
            w.add_(1.0)
            numbers += self.center.elastic(w, 0.25)
            w.sub_(self.center.desk, alpha=0.25)
        return numbers, w

    def peek(self) -> torch.Tensor:
        """w~ as it is."""
        return self.center.peek().clone()


def member(job: JobDirectory, seat: int = 0, dimension: int = D, fingerprint: int = 0) -> Center:
    """A worker that has not said anything yet."""
    return Center(SharedMemory(job, seat, dimension, torch.float32, 0, fingerprint), 1, dimension)


def check_moves(pushes: bool, found: Sequence[Any], center: Tensor, count: int) -> None:
    """Assert that each of `count` moves of two workers was made, and made once.

    Args:
        pushes: whether moves add ones to w~; elastic ones leave the sum of w~ and all workers as it is.
        found: the numbers of each worker's moves; of elastic ones with its weights.
        center: w~ afterwards.
    """
    if pushes:
        assert sorted(found[0] + found[1]) == list(range(1, 2 * count + 1))
        assert set(center.tolist()) == {2.0 * count}
    else:
        assert sorted(found[0][0] + found[1][0]) == list(range(1, 2 * count + 1))
        total = center + found[0][1] + found[1][1]
        torch.testing.assert_close(total, torch.full_like(total, 2.0 * count), rtol=1e-4, atol=0.0)
