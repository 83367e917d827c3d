"""A worker's side of the central variable. Imports gossip's lower modules and torch.

Requests go to all shards at once; each shard makes its part of a move on its own. A worker whose server has gone waits
for the next one, says so, asks it whether the request under way was met, and sends it again only if it was not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from gossip.server import protocol
from gossip.server.far import Far
from gossip.server.memory import Memory
from gossip.server.near import Near
from gossip.server.protocol import Line, ServerLostError
from gossip.server.waiting import Waiting
from gossip.transports.shared_memory import SharedMemory

_log = logging.getLogger("gosgd")
_POLL_S = 0.1
_GENERATION = 40  # bits of a request's number below the generation of who sends it

Fill = Callable[[slice], object]


class _CutShortError(Exception):
    """This worker was interrupted while it waited."""


class Center:
    """The central variable w~, wherever it is.

    Args:
        transport: of this worker; one vector of shared memory is taken for the desk unless the way is far.
        shards: how many w~ is cut into.
        weights: elements that are parameters.
        alive: says whether a server is there, or will be.
        patient: whether to wait for another server when this one has died; else that is an error.
        snapshot_s: seconds between the server's snapshots, if it keeps any.
        far: the way to a server on another host.

    Attributes:
        desk: [D], where vectors are handed over.
        versions: moves that w~ had behind it at this worker's last request, for each shard.
        waited_s: seconds this worker has spent in requests.
        away: whether this worker has given up on the server, because it was interrupted while it waited for it.
    """

    def __init__(
        self,
        transport: SharedMemory,
        shards: int,
        weights: int,
        alive: Callable[[], bool] = lambda: True,
        patient: bool = False,
        snapshot_s: float = 0.0,
        far: Far | None = None,
    ) -> None:
        self._transport, self._weights = transport, weights
        self._way = far or Near(transport, alive)
        self._patient, self._snapshot_s = patient, snapshot_s
        self._interrupted: Callable[[], bool] = lambda: False
        self._shards = shards
        self._lines: list[Line | None] = [None] * shards
        self.cuts = protocol.cuts(transport.dimension, shards)
        self.desk = self._way.desk
        self.versions = [0] * shards
        self._request = transport.me.generation << _GENERATION
        self.requests, self.waited_s = 0, 0.0
        self.away = False

    def join(self, vector: Tensor, versions: list[int], interrupted: Callable[[], bool]) -> bool:
        """Say who this is and what it would start with; then the desk holds w~.

        Args:
            vector: [D], what w~ becomes if nobody brings anything newer.
            versions: of `vector` in an earlier run, for each shard; zeros for initial weights.
            interrupted: asked whenever this worker waits: for the server, for the other founders, for an answer.

        Returns:
            False when it was interrupted first.
        """
        self._interrupted = interrupted
        if len(versions) != self._shards:  # w~ was cut in another way
            versions = [max(versions, default=0)] * self._shards

        fill = self._handing_over(vector)
        try:
            for shard, version in enumerate(versions):
                fill(self._part(shard))
                self._greet(shard, "join", version)
            for shard, version in enumerate(versions):
                self.versions[shard] = self._welcomed(shard, version, fill)["version"]
        except _CutShortError:
            self._hang_up()
            return False
        return True

    def elastic(self, vector: Tensor, alpha: float) -> list[int] | None:
        """w~ <- w~ + alpha (vector - w~), the desk keeps the difference.

        Returns:
            The move's number at each shard; None when this worker was interrupted while it waited, and made no move.
        """
        return self._move("elastic", self._handing_over(vector), alpha=alpha)

    def flush(self, share: float) -> list[int] | None:
        """w~ <- w~ + desk, where buffers are averaged with weight `share`; returns what `elastic` does."""
        return self._move("flush", share=share)

    def fetch(self) -> list[int] | None:
        """desk <- w~; returns what `elastic` does."""
        return self._move("fetch")

    def peek(self) -> Tensor:
        """w~ [D] as it is now; counts as no move. Where the server cannot be asked, what it has left is read."""
        if self._move("peek") is None:
            for shard in range(self._shards):
                file = protocol.memory(self._transport.directory.path, shard)
                memory = Memory.open(file, self._transport.seats)
                if memory is not None:
                    self.desk[self._part(shard)].copy_(memory.vector)
                    self.versions[shard] = memory.earlier + memory.moves
        return self.desk

    def others(self) -> int | None:
        """How many other workers have not left, and may not have been lost; None when this one was interrupted."""
        answers = self._ask("others")
        return None if answers is None else int(answers[0]["others"])

    def leave(self) -> bool:
        """Make no more moves. True for the worker that leaves last: it may still fetch."""
        answers = self._ask("leave")
        return answers is not None and bool(answers[0]["last"])

    def close(self) -> None:
        """Hang up, after the last word."""
        for line in self._lines:
            if line is not None:
                try:
                    line.send({"do": "bye", "sent": time.monotonic(), "request": self._request})
                except OSError:  # whoever comes after that server finds that this worker has left
                    continue
        self._hang_up()

    def _hang_up(self) -> None:
        for line in self._lines:
            if line is not None:
                line.close()
        self._lines = [None] * self._shards

    def _handing_over(self, vector: Tensor) -> Fill:
        """What lays a part of `vector` on the desk, as often as it is asked for."""
        return lambda part: self.desk[part].copy_(vector[part])

    def _part(self, shard: int) -> slice:
        return slice(self.cuts[shard], self.cuts[shard + 1])

    def _move(self, do: str, fill: Fill = lambda part: None, **fields: float) -> list[int] | None:
        answers = self._ask(do, fill, **fields)
        if answers is None:
            return None
        self.versions = [answer["version"] for answer in answers]
        return [answer["number"] for answer in answers]

    def _ask(self, do: str, fill: Fill = lambda part: None, **fields: float) -> list[dict[str, Any]] | None:
        if self.away:
            return None
        began = time.monotonic()
        self._request += 1
        message = {"do": do, "sent": began, "request": self._request, **fields}
        try:
            for shard in range(self._shards):
                fill(self._part(shard))
                self._send(shard, message)
            answers = [self._obtain(shard, message, fill) for shard in range(self._shards)]
        except _CutShortError:
            self.away = True
            self._hang_up()
            return None
        self.requests += 1
        self.waited_s += time.monotonic() - began
        return answers

    def _send(self, shard: int, message: dict[str, Any]) -> None:
        """Send, if anybody listens; the answer will be missed otherwise."""
        line = self._lines[shard]
        if line is None:
            return
        try:
            line.send(message)
        except OSError:
            self._drop(shard)

    def _drop(self, shard: int) -> None:
        line, self._lines[shard] = self._lines[shard], None
        if line is not None:
            line.close()

    def _obtain(self, shard: int, message: dict[str, Any], fill: Fill) -> dict[str, Any]:
        """The answer to a request that was sent; from another server if need be."""
        do, part = message["do"], self._part(shard)
        grace_s = self._way.grace_s
        while (answer := self._answer(shard, f"the server to answer a {do!r} request", grace_s)) is None:
            if not self._patient:
                raise self._lost(do)
            began = time.monotonic()
            _log.warning(
                "worker %d: the server of the central variable has gone during a %r request; waits for the next one",
                self._transport.me.seat,
                do,
            )
            welcome = None
            while welcome is None:
                self._greet(shard, do, version=0, again=True)
                welcome = self._answer(shard, "the server", grace_s)
            met = bool(welcome["request"] == message["request"])
            _log.warning(
                "worker %d: the server is back after %.1f s; the %r request %s",
                self._transport.me.seat,
                time.monotonic() - began,
                do,
                "had been met" if met else "is sent again",
            )
            if met:
                return welcome
            fill(part)
            self._send(shard, message)
        return answer

    def _welcomed(self, shard: int, version: int, fill: Fill) -> dict[str, Any]:
        """What the server says once the job's founders are there."""
        while (answer := self._answer(shard, "the other workers to come up", 0.0)) is None:
            if not self._patient:
                raise self._lost("join")
            fill(self._part(shard))
            self._greet(shard, "join", version)
        return answer

    def _answer(self, shard: int, what: str, grace_s: float) -> dict[str, Any] | None:
        """What comes from a shard's server; None when nobody is there any more.

        Args:
            shard: which.
            what: this worker waits for, in complaints.
            grace_s: how long an interrupted worker waits for it still.
        """
        line = self._lines[shard]
        if line is None:
            return None
        waiting = Waiting(self._transport.me.seat, what)
        interrupted: float | None = None
        try:
            while not line.poll(_POLL_S):
                waiting.complain()
                if self._interrupted():
                    interrupted = interrupted or time.monotonic()
                    if time.monotonic() - interrupted >= grace_s:
                        raise _CutShortError
            answer = line.receive()
        except (EOFError, OSError):
            self._drop(shard)
            return None
        if "refused" in answer:
            raise ValueError(answer["refused"])
        return answer

    def _greet(self, shard: int, do: str, version: int, again: bool = False) -> None:
        """Connect to a shard's server, once there is one, and say who this is."""
        transport = self._transport
        about = {
            "do": "hello",
            "member": list(transport.me),
            "dimension": transport.dimension,
            "dtype": str(transport.dtype).removeprefix("torch."),
            "fingerprint": transport.fingerprint,
            "weights": self._weights,
            "version": version,
            "again": again,
            "under_way": do,
            "request": self._request,
            "snapshot_s": self._snapshot_s,
        }
        line = self._way.call(shard, about, self._interrupted)
        if line is None:
            raise _CutShortError
        self._lines[shard] = line

    def _lost(self, do: str) -> ServerLostError:
        return ServerLostError(
            f"worker {self._transport.me.seat} waited for the central variable's answer to a {do!r} request when its"
            " server went away: w~ is lost and the job cannot go on; resume it from its checkpoints"
        )
