"""Workers whose weights are on a device: a GPU, or one that only a test believes in and that does everything late."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import support.workers
import torch
from support.on_devices import FileIpc
from support.streams import LateStreams
from support.workers import Worker, batch, make_model

import gossip.messages
import gossip.methods.gosgd
from gossip.devices import Accelerator
from gossip.transports.device_memory import DeviceMemory


class LateWorker(Worker):
    """A worker of gossip whose copies and merges are told of some steps late, with slots that others map."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        ipc = FileIpc(Path(os.environ["GOSGD_JOB"]))
        gossip.methods.gosgd.SharedMemory = partial(DeviceMemory, ipc=ipc)  # type: ignore[misc, assignment]
        gossip.messages.device_of = lambda vector: Accelerator(LateStreams())  # type: ignore[arg-type]
        super().__init__(*arguments, **options)
        assert isinstance(self.exchange.transport, DeviceMemory)


class OverlappingWorker(LateWorker):
    """One whose messages are copied until just before the optimizer's next step."""

    def steps(self, count: int, lr: float, pause_s: float = 0.0) -> int:
        optimizer = torch.optim.SGD(self.model.parameters(), lr)
        self.exchange.overlap(optimizer)
        for _ in range(count):
            x, y = batch(self.rank, self.exchange.steps)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.wrapped(x), y).backward()
            optimizer.step()
            self.exchange.step()
        return self.exchange.steps


class GpuWorker(Worker):
    """A worker on a GPU, which it shares with the others."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        device = torch.device("cuda", 0)
        support.workers.make_model = lambda kind: make_model(kind).to(device)
        support.workers.batch = lambda *which: tuple(part.to(device) for part in batch(*which))  # type: ignore[assignment]
        super().__init__(*arguments, **options)

    def vector(self) -> np.ndarray:
        return self.exchange.flat.vector.double().cpu().numpy()

    def in_device_memory(self) -> bool:
        """Whether slots can be mapped."""
        return isinstance(self.exchange.transport, DeviceMemory)
