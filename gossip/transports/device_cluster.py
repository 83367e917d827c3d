"""Members on several hosts whose slots lie in the memory of GPUs. Imports the cluster and the device-memory transport.

Those of one host map each other's slots, as without other hosts. Those of different hosts read them with NIXL, GPU to
GPU, where both sides have registered that memory; else through slots in the host's memory.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gossip.driver import DriverError
from gossip.layout import ON_DEVICE, Member
from gossip.transports.cluster import Cluster
from gossip.transports.device_memory import DeviceMemory
from gossip.transports.ipc import Ipc
from gossip.transports.nixl import LinkError
from gossip.transports.notes import About

_log = logging.getLogger("gosgd")


class DeviceCluster(Cluster, DeviceMemory):
    """One member of a job on several hosts whose slots lie in its GPU's memory.

    Args:
        place: as of `Cluster`, in its order. Where other hosts read GPU to GPU, as many places as it has for messages
            that come from them are kept in this one's GPU, too.
        device: the GPU.
        ipc: to make and to map slots with.
        direct: whether other hosts are to read this GPU's memory; if it cannot be registered, that is said, and they
            read the host's.
        options: as of `Cluster`.

    Raises:
        ValueError: the seat does not exist or a living process has it, or there is too little memory.
    """

    def __init__(self, *place: Any, device: torch.device, ipc: Ipc, direct: bool, **options: Any) -> None:
        self._open_to_others = False
        self._places: list[Tensor] = []
        super().__init__(*place, device=device, ipc=ipc, **options)
        try:
            self._open_to_others = direct and self._register(len(self._staging))
            if not self._open_to_others:
                self._stage("workers on other hosts")
        except ValueError:
            self.close()
            raise

    def _register(self, places: int) -> bool:
        try:
            self._places = [self._ipc.make(self.dimension, self.dtype)[0] for _ in range(places)]
        except DriverError as error:
            raise ValueError(
                f"got room for less than {places} vectors of {self.dimension * self.dtype.itemsize:,} bytes from other"
                f" hosts in GPU memory ({error}), expected room for them; use fewer exchange.slots, or exchange.memory:"
                " host"
            ) from None
        try:
            self._engine.register(*self._places)
            self._own_slots()
        except LinkError as error:
            _log.warning("worker %d: other hosts cannot read the memory of this GPU: %s", self.me.seat, error)
            return False
        return True

    def _own_slots(self) -> tuple[int, ...]:
        """Addresses of this member's slots on its GPU."""
        return tuple(
            self._address(f"{index} on the GPU", self._on_device[(self.me, index)]) for index in range(self._created)
        )

    def _about(self) -> About:
        if not self._open_to_others:
            return super()._about()
        slots = self._own_slots()
        return replace(super()._about(), on_device=slots, device=self._places[0].get_device())

    def place(self, slot: int, whole: bool, receiver: Member) -> int:
        """How a slot is to be announced; slots in the host's memory are made for the first who can only read those."""
        link = self._link(receiver)
        if link is not None:
            self._direct[receiver] = self._open_to_others and bool(link.about.on_device)
            if not self._direct[receiver]:
                self._stage(f"worker {receiver.seat}")
        return super().place(slot, whole, receiver)

    def _stand(self, place: int, word: int) -> Tensor:
        return self._places[place] if word & ON_DEVICE else super()._stand(place, word)
