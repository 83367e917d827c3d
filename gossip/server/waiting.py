"""How a worker waits for a server of the central variable. Imports gossip.server.protocol."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from pathlib import Path

from gossip.server import protocol
from gossip.server.protocol import ServerLostError

_log = logging.getLogger("gosgd")
_COMPLAINT_S = 5.0
_PAUSE_S = 0.01


class Waiting:
    """Says every few seconds what a worker waits for, and for how long it has.

    Args:
        seat: of the worker.
        what: it waits for.
    """

    def __init__(self, seat: int, what: str) -> None:
        self._seat, self._what = seat, what
        self._began = self._said = time.monotonic()

    def complain(self) -> None:
        """Say so, if the last time was not just now."""
        now = time.monotonic()
        if now - self._said >= _COMPLAINT_S:
            self._said = now
            _log.warning("worker %d: has waited %.0f s for %s", self._seat, now - self._began, self._what)


def connect(
    directory: Path, shard: int, seat: int, alive: Callable[[], bool], interrupted: Callable[[], bool]
) -> Connection | None:
    """Connect to a shard's server, once it is there; None when interrupted first.

    Args:
        directory: of the job.
        shard: which.
        seat: of the worker that waits.
        alive: says whether a server is there, or will be.
        interrupted: asked while waiting.

    Raises:
        ServerLostError: there will be none any more.
    """
    waiting = Waiting(seat, "the server")
    where = protocol.address(directory, shard)
    while not interrupted():
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            connection = Client(where, family="AF_UNIX")
            assert isinstance(connection, Connection)
            return connection
        if protocol.over(directory).exists():
            raise ServerLostError(
                f"worker {seat} came when all workers had left and the central variable with them: there is nothing"
                " left to join"
            )
        if not alive() or not directory.exists():
            raise ServerLostError(f"worker {seat}: the central variable has no server, and will have none")
        waiting.complain()
        time.sleep(_PAUSE_S)
    return None
