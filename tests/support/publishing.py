"""A worker that publishes as fast as it can, for a reader elsewhere to catch it half-way."""

from __future__ import annotations

import time

import torch

from gossip.directory import JobDirectory
from gossip.publication import Publisher
from gossip.transports.shared_memory import SharedMemory


class FastWriter:
    """Publishes vectors whose every element is the step they are labelled with."""

    def __init__(self, directory: str, seat: int, dimension: int) -> None:
        self.transport = SharedMemory(JobDirectory.open(directory), seat, dimension, torch.float32, 0)
        self.publisher = Publisher(self.transport)
        self.transport.appear()
        self.step = 0

    def write_one(self, mass: int = 0) -> None:
        self.step += 1
        self.publisher.publish(torch.full((self.transport.dimension,), float(self.step)), self.step, mass)

    def write(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.write_one(self.step * 3)
        return self.step
