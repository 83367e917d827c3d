"""How a worker reaches the server of its own host: a socket in the job directory, and a desk in shared memory.

Imports gossip.server's protocol and waiting, and the shared-memory transport.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from typing import Any

from gossip.server import protocol
from gossip.server.protocol import ServerLostError
from gossip.server.waiting import PAUSE_S, Waiting
from gossip.transports.shared_memory import SharedMemory

_GRACE_S = 0.5


class Near:
    """The way within a host.

    Args:
        transport: of this worker; one vector of shared memory is taken for the desk.
        alive: says whether a server is there, or will be.

    Attributes:
        desk: [D], where vectors are handed over.
        grace_s: how long an interrupted worker waits for an answer still.
    """

    grace_s = _GRACE_S

    def __init__(self, transport: SharedMemory, alive: Callable[[], bool]) -> None:
        self._alive, self._me, self._directory = alive, transport.me, transport.directory.path
        self.desk = transport.tensor(transport.file(transport.me, "desk"), transport.dimension, create=True)

    def call(self, shard: int, about: dict[str, Any], interrupted: Callable[[], bool]) -> protocol.Line | None:
        """Connect to a shard's server, once it is there, and say who this is; None when interrupted first.

        Args:
            shard: which.
            about: this worker, and what it is about to ask.
            interrupted: asked while waiting.

        Raises:
            ServerLostError: there will be none any more.
        """
        waiting = Waiting(self._me.seat, "the server")
        where = protocol.address(self._directory, shard)
        while not interrupted():
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection = Client(where, family="AF_UNIX")
                assert isinstance(connection, Connection)
                with contextlib.suppress(OSError):  # who goes meanwhile is found to have gone when it does not answer
                    protocol.send(connection, about | {"key": protocol.read_key(self._directory, shard)})
                return NearLine(connection)
            if protocol.over(self._directory).exists():
                raise ServerLostError(
                    f"worker {self._me.seat} came when all workers had left and the central variable with them: there"
                    " is nothing left to join"
                )
            if not self._alive() or not self._directory.exists():
                raise ServerLostError(f"worker {self._me.seat}: the central variable has no server, and will have none")
            waiting.complain()
            time.sleep(PAUSE_S)
        return None


class NearLine:
    """A connection of this kind; vectors need not be sent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: dict[str, Any]) -> None:
        """One request."""
        protocol.send(self._connection, message)

    def poll(self, timeout_s: float) -> bool:
        """Whether something comes within this time."""
        return self._connection.poll(timeout_s)

    def receive(self) -> dict[str, Any]:
        """One answer."""
        return protocol.receive(self._connection)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
