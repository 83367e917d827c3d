"""Members whose slots lie in device memory: a GPU's, or files that others can map only while their maker lives."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from pathlib import Path
from typing import Any

import torch
from support.members import Actor, Processes
from support.remote import Handle, in_process_of_its_own, process_state
from torch import Tensor

from gossip.devices import device_of
from gossip.directory import JobDirectory
from gossip.driver import DriverError
from gossip.layout import Member
from gossip.mail import Letter
from gossip.transports.device_memory import DeviceMemory
from gossip.transports.ipc import CudaIpc, Ipc
from gossip.works import Event


class FileIpc:
    """As CUDA IPC is: a mapping outlives its owner, a handle does not.

    Args:
        folder: for the memory.
        barred: whether nobody else's memory can be reached from here.
    """

    def __init__(self, folder: Path, barred: bool = False) -> None:
        self._folder, self._barred = folder, barred
        self._numbers = itertools.count()
        self.mapped = 0

    def make(self, elements: int, dtype: torch.dtype) -> tuple[Tensor, bytes]:
        path = self._folder / f"memory-{os.getpid()}-{id(self)}-{next(self._numbers)}"
        path.write_bytes(bytes(elements * dtype.itemsize))
        return self._tensor(path, dtype), f"{os.getpid()} {path}".encode()

    def map(self, handle: bytes, elements: int, dtype: torch.dtype) -> Tensor:
        maker, _, path = handle.decode().partition(" ")
        if self._barred or process_state(int(maker)) in ("", "Z"):
            raise DriverError("no way there")
        self.mapped += 1
        return self._tensor(Path(path), dtype)[:elements]

    def unmap(self, vector: Tensor) -> None:
        self.mapped -= 1

    def _tensor(self, path: Path, dtype: torch.dtype) -> Tensor:
        with path.open("r+b") as file:
            return torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=dtype)


class DeviceActor(Actor):
    """A member on a device; what it does there is over when a call of it returns, but for `run`."""

    kind = "cpu"

    def enter(self, place: Any, seat: int, dimension: int, slots: int) -> DeviceMemory:
        directory = JobDirectory.open(place)
        return DeviceMemory(directory, seat, dimension, torch.float32, slots, ipc=self.prepare(directory, dimension))

    def prepare(self, directory: JobDirectory, dimension: int) -> Ipc:
        """Have weights on the device, and a way to share its memory."""
        self.where = torch.device(self.kind, 0) if self.kind != "cpu" else torch.device("cpu")
        self._weights = torch.zeros(dimension, device=self.where)
        self._device = device_of(self._weights)
        self._differing = torch.zeros((), dtype=torch.long, device=self.where)
        return FileIpc(directory.path) if self.kind == "cpu" else CudaIpc(self.where)

    def torn_messages(self) -> int:
        return int(self._differing)

    def meet(self) -> list[Member]:
        met = super().meet()
        self.outbox.finish()
        return met

    def poll(self) -> int:
        merged = super().poll()
        self.outbox.finish()
        return merged

    def push(self, seat: int, shares: int | None = None) -> bool:
        pushed = super().push(seat, shares)
        self.outbox.finish()
        return pushed

    def _write(self, slot: Tensor, letter: Letter) -> Event | None:
        self._weights.fill_(self.step * 8 + self.transport.me.seat)
        event = self._device.snapshot(slot, self._weights, len(self._weights))
        self._device.guard()
        return event

    def _merge(self, slot: Tensor, weight: float, step: int, letter: Letter) -> Event | None:
        self._device.guard()
        self._differing += (self._device.here(slot) != step * 8 + letter.sender.seat).any()
        self._differing += not 0 < weight <= 1
        if len(self.merged) < 10_000:
            self.merged.append((letter.sender.seat, step))
        return self._device.mark()


class CudaActor(DeviceActor):
    """A member on a GPU."""

    kind = "cuda"


class OnDevices(Processes):
    """Members are processes of their own, their slots in memory that stands for a device's."""

    kind = "device_memory"
    actor: type[DeviceActor] = DeviceActor

    def _run(self, *arguments: Any) -> Handle:
        return in_process_of_its_own(self.actor, str(self.directory.path), *arguments)

    def slots_of(self, member: Member) -> int:
        return len(list(self.directory.path.glob(f"{member.seat}-{member.generation}.ipc-*")))


class OnGpu(OnDevices):
    """Members are processes of their own that share a GPU."""

    kind = "cuda_ipc"
    actor = CudaActor


def gpu() -> bool:
    """Whether there is one here that can be used."""
    with contextlib.suppress(RuntimeError):
        return torch.cuda.is_available()
    return False
