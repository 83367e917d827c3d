"""NIXL as the courier uses it: one agent a process, notifications, one-sided reads. Imports torch, and nixl at need.

NIXL runs over UCX (TCP, RDMA). UCX reads its settings from the environment when the first agent is made; what is set
here are defaults for links that may break, and each of them gives way to the user's own.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from torch import Tensor

MISSING = "got workers on several hosts without nixl, which carries messages between them; pip install 'gosgd[cluster]'"

_DEFAULTS = {
    "UCX_TCP_CONN_NB": "y",  # else a host that does not answer holds up everybody's messages for minutes
    "UCX_TCP_USER_TIMEOUT": "10s",  # else the kernel goes on for a quarter of an hour
    "UCX_TCP_KEEPIDLE": "5s",
    "UCX_TCP_KEEPINTVL": "2s",
    "UCX_TCP_KEEPCNT": "3",
    "UCX_TCP_RX_SEG_SIZE": "256k",  # fewer and larger pieces than by default: a sixth less work for a vector
    "UCX_TCP_SENDV_THRESH": "2k",
    "UCX_LOG_LEVEL": "fatal",  # a link that is down is tried again and again, and each time UCX would say so
    "NIXL_LOG_LEVEL": "FATAL",
}

PENDING, DONE = "PROC", "DONE"


class LinkError(Exception):
    """The other agent cannot be reached, or what was asked of it failed."""


def check_installed() -> None:
    """Refuse a job that needs what is not there.

    Raises:
        ValueError: nixl is not installed.
    """
    if importlib.util.find_spec("nixl") is None:
        raise ValueError(MISSING)


class Engine:
    """One agent, which gets on while its methods are called. Not to be used by two threads at once.

    Args:
        name: of the agent, unique in the job.
    """

    def __init__(self, name: str) -> None:
        check_installed()
        for variable, value in _DEFAULTS.items():
            os.environ.setdefault(variable, value)
        from nixl._api import nixl_agent, nixl_agent_config

        # NIXL's own thread would never sleep and take a core from training: whoever uses the engine keeps it going.
        self._agent: Any = nixl_agent(name, nixl_agent_config(enable_prog_thread=False, backends=["UCX"]))

    def register(self, *tensors: Tensor) -> None:
        """Let memory be read from elsewhere, and be read into."""
        self._agent.register_memory(list(tensors))

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

    def read(self, name: str, here: int, there: int, size: int) -> Any:
        """Begin to copy `size` bytes at address `there` of another agent to address `here` of this one."""
        try:
            local = self._agent.get_xfer_descs([(here, size, 0)], "DRAM")
            remote = self._agent.get_xfer_descs([(there, size, 0)], "DRAM")
            handle = self._agent.initialize_xfer("READ", local, remote, name, b"")
            self._agent.transfer(handle)
        except Exception as error:
            raise LinkError(repr(error)) from error
        return handle

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
