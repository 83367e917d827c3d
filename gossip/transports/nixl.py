"""NIXL as the courier uses it: one agent a process, notifications, one-sided reads.

Imports gossip.driver, gossip.layout, torch, and nixl at need. NIXL runs over UCX (TCP, RDMA). UCX reads its settings
from the environment when the first agent is made; what is set here are defaults for links that may break, and each of
them gives way to the user's own.
"""

from __future__ import annotations

import importlib.util
import math
import mmap
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossip.driver import Driver
from gossip.layout import IN_HOST

MISSING = (
    "got workers on several hosts, or of several torchruns, without nixl, which carries messages between them;"
    " pip install 'gosgd[cluster]'"
)

_DEFAULTS = {
    "UCX_TCP_CONN_NB": "y",  # else a host that does not answer holds up everybody's messages for minutes
    "UCX_TCP_USER_TIMEOUT": "10s",  # else the kernel goes on for a quarter of an hour
    "UCX_TCP_KEEPIDLE": "5s",
    "UCX_TCP_KEEPINTVL": "2s",
    "UCX_TCP_KEEPCNT": "3",
    "UCX_TCP_RX_SEG_SIZE": "256k",  # fewer and larger pieces than by default: a sixth less work for a vector
    "UCX_TCP_SENDV_THRESH": "2k",
    "UCX_PROTO_EMULATION_ENABLE": "y",  # over TCP a read is emulated, which versions of NIXL to come turn off
    "UCX_LOG_LEVEL": "fatal",  # a link that is down is tried again and again, and each time UCX would say so
    "NIXL_LOG_LEVEL": "FATAL",
}

PENDING, DONE = "PROC", "DONE"


_DEVICES = Path("/sys/class/infiniband")


class LinkError(Exception):
    """The other agent cannot be reached, or what was asked of it failed."""


def rdma(devices: Path = _DEVICES) -> bool:
    """Whether an RDMA device of this host is up: only such a one reads a GPU's memory without the processor."""
    try:
        return any("ACTIVE" in state.read_text() for state in devices.glob("*/ports/*/state"))
    except OSError:
        return False


def check_installed() -> None:
    """Refuse a job that needs what is not there.

    Raises:
        ValueError: nixl is not installed.
    """
    if importlib.util.find_spec("nixl") is None:
        raise ValueError(MISSING)


def _api() -> Any:
    check_installed()
    try:
        import nixl._api
    except ImportError as error:  # it has a part for each version of CUDA, and looks for that of torch's
        raise ValueError(
            f"got nixl that cannot be imported ({error}), expected one for torch's CUDA {torch.version.cuda};"
            " pip install 'nixl[cu12,cu13]'"
        ) from error
    return nixl._api


def whole_pages(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor in pages that nothing else lies in: what is registered is locked, and no page is locked twice."""
    size = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


class Engine:
    """One agent, which gets on while its methods are called. Not to be used by two threads at once.

    Args:
        name: of the agent, unique in the job.
        device: the GPU whose memory is registered, too, if any.
    """

    def __init__(self, name: str, device: torch.device | None = None) -> None:
        self._device = device
        for variable, value in _DEFAULTS.items():
            os.environ.setdefault(variable, value)
        api = _api()
        self.enter()
        # NIXL's own thread would never sleep and take a core from training: whoever uses the engine keeps it going.
        self._agent: Any = api.nixl_agent(name, api.nixl_agent_config(enable_prog_thread=False, backends=["UCX"]))

    def enter(self) -> None:
        """Let the calling thread use the engine: the driver wants to know in each whose memory it is about."""
        if self._device is not None and self._device.type != "cpu":
            Driver(self._device).bind()

    def register(self, *tensors: Tensor) -> None:
        """Let memory, of the host or of the GPU, be read from elsewhere, and be read into.

        Raises:
            LinkError: it cannot be.
        """
        try:
            self._agent.register_memory(list(tensors))
        except Exception as error:
            raise LinkError(repr(error)) from error

    def metadata(self) -> bytes:
        """What another agent needs to know to reach this one and its memory."""
        return bytes(self._agent.get_agent_metadata())

    def connect(self, metadata: bytes) -> str:
        """Make another agent known, or tell what has changed about it; returns its name."""
        try:
            name = self._agent.add_remote_agent(metadata)
        except Exception as error:
            raise LinkError(repr(error)) from error
        return name.decode() if isinstance(name, bytes) else str(name)

    def disconnect(self, name: str) -> None:
        """Forget another agent and what is under way to it."""
        try:
            self._agent.remove_remote_agent(name)
        except Exception as error:
            raise LinkError(repr(error)) from error

    def send(self, name: str, message: bytes) -> None:
        """Send a notification; it arrives, or the link turns out to be broken later."""
        try:
            self._agent.send_notif(name, message)
        except Exception as error:
            raise LinkError(repr(error)) from error

    def arrived(self) -> list[bytes]:
        """Notifications that have come since the last call."""
        try:
            found = self._agent.get_new_notifs()
        except Exception as error:
            raise LinkError(repr(error)) from error
        return [message for messages in found.values() for message in messages]

    def read(self, name: str, here: Tensor, there: int, size: int, device: int = IN_HOST) -> Any:
        """Begin to copy `size` bytes at address `there` of another agent to the beginning of a tensor.

        Args:
            device: of the other agent on which that address is.
        """
        try:
            local = self._described(here.data_ptr(), size, here.get_device())
            remote = self._described(there, size, device)
            handle = self._agent.initialize_xfer("READ", local, remote, name, b"")
            self._agent.transfer(handle)
        except Exception as error:
            raise LinkError(repr(error)) from error
        return handle

    def _described(self, address: int, size: int, device: int) -> Any:
        kind = "DRAM" if device == IN_HOST else "VRAM"
        return self._agent.get_xfer_descs([(address, size, max(0, device))], kind)

    def finished(self, handle: Any) -> bool:
        """Whether a copy has been made.

        Raises:
            LinkError: it failed.
        """
        try:
            state = self._agent.check_xfer_state(handle)
        except Exception as error:
            raise LinkError(repr(error)) from error
        if state not in (PENDING, DONE):
            raise LinkError(f"transfer ended as {state}")
        return bool(state == DONE)

    def close(self) -> None:
        """Let go of everything; the agent's own threads end."""
        self._agent = None

    def release(self, handle: Any) -> None:
        """Forget a copy, made or not."""
        try:
            self._agent.release_xfer_handle(handle)
        except Exception as error:
            raise LinkError(repr(error)) from error
