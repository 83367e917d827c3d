"""A worker's side of the central variable. Imports gossip's lower modules and torch.

Requests go to all shards at once; each shard makes its part of a move on its own.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from typing import Any

from torch import Tensor

from gossip.server import protocol
from gossip.server.protocol import ServerLostError
from gossip.transports.shared_memory import SharedMemory

_log = logging.getLogger("gosgd")
_COMPLAINT_S = 5.0
_PAUSE_S = 0.01


class Center:
    """The central variable w~, wherever it is.

    Args:
        transport: of this worker; one vector of shared memory is taken for the desk.
        shards: how many w~ is cut into.
        weights: elements that are parameters.
        alive: says whether a server that this process has started is still there.

    Attributes:
        desk: [D], where vectors are handed over.
        versions: moves that w~ had behind it at this worker's last request, for each shard.
        waited_s: seconds this worker has spent in requests.
    """

    def __init__(
        self, transport: SharedMemory, shards: int, weights: int, alive: Callable[[], bool] = lambda: True
    ) -> None:
        self._transport, self._weights, self._alive = transport, weights, alive
        self._directory = transport.directory.path
        self._connections: list[Connection] = []
        self._shards = shards
        self.cuts = protocol.cuts(transport.dimension, shards)
        self.desk = transport.tensor(transport.file(transport.me, "desk"), transport.dimension, create=True)
        self.versions = [0] * shards
        self.requests = 0
        self.waited_s = 0.0

    def join(self, vector: Tensor, versions: list[int], interrupted: Callable[[], bool]) -> bool:
        """Say who this is and what it would start with; then the desk holds w~.

        Args:
            vector: [D], what w~ becomes if nobody brings anything newer.
            versions: of `vector` in an earlier run, for each shard; zeros for initial weights.
            interrupted: asked while waiting for the server and for the other founders.

        Returns:
            False when it was interrupted first.
        """
        self.desk.copy_(vector)
        transport = self._transport
        about = {
            "member": list(transport.me),
            "dimension": transport.dimension,
            "dtype": str(transport.dtype).removeprefix("torch."),
            "fingerprint": transport.fingerprint,
            "weights": self._weights,
        }
        if len(versions) != self._shards:  # w~ was cut in another way
            versions = [max(versions, default=0)] * self._shards
        for shard, version in enumerate(versions):
            connection = self._connect(shard, interrupted)
            if connection is None:
                return False
            self._connections.append(connection)
            key = protocol.read_key(self._directory, shard)
            protocol.send(connection, {"do": "hello", "key": key, "version": version, **about})
        for shard, connection in enumerate(self._connections):
            answer = self._answer(connection, "join", interrupted)
            if answer is None:
                return False
            if "refused" in answer:
                raise ValueError(answer["refused"])
            self.versions[shard] = answer["version"]
        return True

    def elastic(self, vector: Tensor, alpha: float) -> list[int]:
        """w~ <- w~ + alpha (vector - w~), the desk keeps the difference. Returns the move's number at each shard."""
        self.desk.copy_(vector)
        return self._move("elastic", alpha=alpha)

    def flush(self, share: float) -> list[int]:
        """w~ <- w~ + desk, where buffers are averaged with weight `share`. Returns the move's number at each shard."""
        return self._move("flush", share=share)

    def fetch(self) -> list[int]:
        """desk <- w~. Returns the move's number at each shard."""
        return self._move("fetch")

    def peek(self) -> Tensor:
        """w~ [D] as it is now; counts as no move."""
        self._move("peek")
        return self.desk

    def leave(self) -> bool:
        """Make no more moves. True for the worker that leaves last: it may still fetch."""
        return bool(self._ask("leave")[0]["last"])

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _move(self, do: str, **fields: float) -> list[int]:
        answers = self._ask(do, **fields)
        self.versions = [answer["version"] for answer in answers]
        return [answer["number"] for answer in answers]

    def _ask(self, do: str, **fields: float) -> list[dict[str, Any]]:
        began = time.monotonic()
        message = {"do": do, "sent": began, **fields}
        try:
            for connection in self._connections:
                protocol.send(connection, message)
        except OSError as error:
            raise self._lost(do) from error
        answers = [self._answer(connection, do, lambda: False) for connection in self._connections]
        self.requests += 1
        self.waited_s += time.monotonic() - began
        return [answer for answer in answers if answer is not None]

    def _answer(self, connection: Connection, do: str, interrupted: Callable[[], bool]) -> dict[str, Any] | None:
        began = complained = time.monotonic()
        try:
            while not connection.poll(0.1 if do == "join" else _COMPLAINT_S):
                if interrupted():
                    return None
                now = time.monotonic()
                if now - complained >= _COMPLAINT_S:
                    complained = now
                    what = "the other workers to come up" if do == "join" else f"the server to answer a {do!r} request"
                    _log.warning("worker %d: has waited %.0f s for %s", self._transport.me.seat, now - began, what)
            return protocol.receive(connection)
        except (EOFError, OSError) as error:
            raise self._lost(do) from error

    def _lost(self, do: str) -> ServerLostError:
        return ServerLostError(
            f"worker {self._transport.me.seat} waited for the central variable's answer to a {do!r} request when its"
            " server went away: w~ is lost and the job cannot go on; resume it from its checkpoints"
        )

    def _connect(self, shard: int, interrupted: Callable[[], bool]) -> Connection | None:
        """Wait for the server to come up; None when interrupted first."""
        began = complained = time.monotonic()
        where = protocol.address(self._directory, shard)
        while not interrupted():
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection = Client(where, family="AF_UNIX")
                assert isinstance(connection, Connection)
                return connection
            if protocol.over(self._directory).exists():
                raise ServerLostError(
                    f"worker {self._transport.me.seat} came when all workers had left and the central variable with"
                    " them: there is nothing left to join"
                )
            if not self._alive() or not self._directory.exists():
                raise ServerLostError(f"worker {self._transport.me.seat}: the central variable's server did not start")
            now = time.monotonic()
            if now - complained >= _COMPLAINT_S:
                complained = now
                _log.warning("worker %d: has waited %.0f s for the server", self._transport.me.seat, now - began)
            time.sleep(_PAUSE_S)
        return None
