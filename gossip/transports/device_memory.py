"""Members on one host whose slots lie in the memory of GPUs. Imports the shared-memory transport and transports' ipc.

Words and publications stay in files; of a slot there is the file `S-G.ipc-K` with the handle by which others map it. A
peer whose GPU cannot be reached from here is written to, and reads, through slots in the host's memory.
"""

from __future__ import annotations

import logging
import threading

import torch
from torch import Tensor

from gossip import layout
from gossip.directory import JobDirectory, write_privately
from gossip.driver import DriverError
from gossip.layout import ON_DEVICE, Member, Words
from gossip.transports.base import SlotLostError
from gossip.transports.ipc import Ipc
from gossip.transports.shared_memory import SharedMemory

_log = logging.getLogger("gosgd")


class DeviceMemory(SharedMemory):
    """One member of a job on one host whose slots can be mapped by other GPUs' processes.

    A slot is mapped when its owner is met, not when it is first read: memory that has been mapped stays when its owner
    dies, a handle does not.

    Args:
        directory: the job.
        seat: the seat to take.
        dimension: D, elements of a weight vector.
        dtype: of a weight vector.
        slots: how many messages of ours may be unread at once before sends are skipped.
        fingerprint: of the model.
        generation: how many members there have been on this seat at least.
        wire: what vectors are rounded to in the slots, where they need not be whole.
        ipc: to make and to map slots with.

    Raises:
        ValueError: the seat does not exist or a living process has it, or there is too little memory.
    """

    def __init__(
        self,
        directory: JobDirectory,
        seat: int,
        dimension: int,
        dtype: torch.dtype,
        slots: int,
        fingerprint: int = 0,
        generation: int = 0,
        wire: torch.dtype | None = None,
        *,
        ipc: Ipc,
    ) -> None:
        self._ipc = ipc
        self._on_device: dict[tuple[Member, int], Tensor] = {}
        self._direct: dict[Member, bool] = {}
        self._staged = False
        self._adding = threading.Lock()
        try:
            super().__init__(directory, seat, dimension, dtype, slots, fingerprint, generation, wire)
        except DriverError as error:
            self.close()
            raise ValueError(
                f"got {slots} slots of {dimension * dtype.itemsize:,} bytes of GPU memory ({error}), expected room for"
                " them; use fewer exchange.slots, or exchange.memory: host"
            ) from None

    def open(self, member: Member) -> Words:
        """A member's control words; at the first call its slots are mapped as well."""
        words = super().open(member)
        if member != self.me and member not in self._direct:
            self._direct[member] = self._reach(member)
            if not self._direct[member] and not self.dead(member):
                self._stage(f"worker {member.seat}")
        return words

    def _reach(self, member: Member) -> bool:
        try:
            for path in sorted(self.directory.path.glob(f"{member.seat}-{member.generation}.ipc-*")):
                self._mapped(member, int(path.name.rpartition("-")[2]))
        except (OSError, ValueError) as error:
            _log.debug("worker %d: slots of worker %d: %s", self.me.seat, member.seat, error)
            return False
        return (member, 0) in self._on_device

    def _stage(self, whose: str) -> None:
        """Make slots in the host's memory, too; says so at the first time."""
        if self._staged:
            return
        _log.warning(
            "worker %d: no direct way to the GPU of %s: where there is none, messages go through the host's memory",
            self.me.seat,
            whose,
        )
        with self._adding:
            self._staged = True
            for index in range(self._created):
                self._create_in_host(index)

    def _mapped(self, member: Member, number: int) -> Tensor:
        key = (member, number)
        if key not in self._on_device:
            handle = bytes.fromhex(self.file(member, f"ipc-{number}").read_text())
            self._on_device[key] = self._ipc.map(handle, self.dimension, self.dtype)
        return self._on_device[key]

    def place(self, slot: int, whole: bool, receiver: Member) -> int:
        """How a slot is to be announced: its number, above it the format of the vector in it, and which memory."""
        place = super().place(slot, whole, receiver)
        return place | ON_DEVICE if self._direct.get(receiver) else place

    def wire(self, index: int) -> torch.dtype:
        """The format that `place` has put into `index`."""
        return super().wire(index & ~ON_DEVICE)

    def slot(self, member: Member, index: int) -> Tensor:
        """The vector [D] in a member's slot as `place` describes it.

        Raises:
            SlotLostError: it was never mapped, and cannot be any more.
        """
        if not index & ON_DEVICE:
            return super().slot(member, index)
        self.wire(index)
        try:
            return self.formatted(self._mapped(member, index & layout.SLOT_INDEX), index)
        except OSError as error:
            raise SlotLostError(str(error)) from error

    def _create_slot(self) -> None:
        index = self._created
        vector, handle = self._ipc.make(self.dimension, self.dtype)
        self._on_device[(self.me, index)] = vector
        draft = self.file(self.me, f"handle-{index}")
        write_privately(draft, handle.hex())
        draft.rename(self.file(self.me, f"ipc-{index}"))  # who meets this member now reads it whole or not at all
        with self._adding:
            if self._staged:
                self._create_in_host(index)
            self._created += 1

    def _create_in_host(self, index: int) -> None:
        self._maps[(self.me, index)] = self.tensor(self.file(self.me, f"slot-{index}"), self.dimension, create=True)

    def discard(self, member: Member) -> None:
        """Let go of a member's slots, all of whose mail has been merged."""
        super().discard(member)
        for path in self.directory.path.glob(f"{member.seat}-{member.generation}.ipc-*"):
            path.unlink(missing_ok=True)
        for key in [key for key in [*self._on_device] if key[0] == member]:
            vector = self._on_device.pop(key)
            if member != self.me:
                self._unmap(vector)

    def _unmap(self, vector: Tensor) -> None:
        try:
            self._ipc.unmap(vector)
        except DriverError as error:
            _log.debug("worker %d: %s", self.me.seat, error)

    def close(self) -> None:
        """Let go of the mappings and, last of all, of the lock; what others map of this member stays till its end."""
        self._let_grow()
        for (member, _), vector in self._on_device.items():
            if member != self.me:
                self._unmap(vector)
        self._on_device.clear()
        super().close()
