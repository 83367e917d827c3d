"""The loop that serves one shard of the central variable. Imports gossip's lower modules and torch.

It waits for all connections at once and handles one request at a time: that is what makes a move atomic.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gossip.directory import JobDirectory, map_file
from gossip.layout import Member
from gossip.server import protocol
from gossip.server.figures import Figures
from gossip.server.shard import Shard

_log = logging.getLogger("gosgd")
REPORT_S = 5.0
START_S = 120.0
Seat = Literal["here", "left", "lost"]
Report = Callable[[int, dict[str, Any]], None]


@dataclass
class _Client:
    member: Member
    desk: Tensor
    model: tuple[int, int]
    weights: int
    version: int


class Server:
    """Serves one shard until every worker has left.

    Args:
        directory: of the job.
        shard: which one.
        shards: of how many.
        restarts: whether somebody starts lost workers again, so that the job is not over without them.
        report: given the version and the figures every few seconds in which something happened, and at the end.
        start_s: how long founders that came wait for those that did not.
    """

    def __init__(
        self,
        directory: JobDirectory,
        shard: int = 0,
        shards: int = 1,
        restarts: bool = False,
        report: Report | None = None,
        start_s: float = START_S,
    ) -> None:
        self._directory, self._index, self._shards = directory, shard, shards
        self._restarts, self._report = restarts, report
        self._deadline: float | None = time.monotonic() + start_s
        self._shard: Shard | None = None
        self._strangers: set[Connection] = set()
        self._clients: dict[Connection, _Client] = {}
        self._seats: dict[int, Seat] = {}
        self._ending = False
        self._rest, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        self._figures = Figures(time.monotonic())
        self._key = protocol.make_key(directory.path, shard)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(protocol.address(directory.path, shard))
        self._listener.listen(128)

    def end(self) -> None:
        """Have the loop end as soon as no worker is connected; may be called from a signal handler."""
        self._ending = True
        with contextlib.suppress(OSError):
            os.write(self._bell, b".")

    def run(self, parent: int | None = None) -> None:
        """Serve.

        Args:
            parent: a descriptor that comes to its end when nobody stands behind this server any more.
        """
        try:
            while not self._over():
                known: list[Any] = [self._listener, self._rest, *self._strangers, *self._clients]
                ready = wait([*known, parent] if parent is not None else known, self._pause())
                for one in ready:
                    if one is self._listener:
                        self._greet()
                    elif one == self._rest:
                        os.read(self._rest, 64)
                    elif one == parent:
                        parent, self._ending = None, True
                    elif isinstance(one, Connection):
                        self._serve(one)
                self._start()
                self._tell()
            with contextlib.suppress(FileNotFoundError):  # the directory may have been removed by now
                protocol.over(self._directory.path).touch()
        finally:
            self._close()

    def _close(self) -> None:
        self._tell(last=True)
        self._listener.close()
        for connection in [*self._strangers, *self._clients]:
            connection.close()
        os.close(self._rest)
        bell, self._bell = self._bell, -1  # a late signal must not ring what has its number by then
        os.close(bell)

    def _over(self) -> bool:
        if self._clients:
            return False
        return self._ending or all(self._gone(seat) for seat in range(self._directory.founders))

    def _gone(self, seat: int) -> bool:
        """Whether nothing more will come from this seat."""
        state = self._seats.get(seat)
        return state == "left" or (state == "lost" and (self._ending or not self._restarts))

    def _pause(self) -> float | None:
        """Until something is due that no message announces."""
        due = [self._deadline] if self._clients and self._deadline is not None else []
        if self._report is not None and self._figures.operations:
            due.append(self._figures.since + REPORT_S)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _greet(self) -> None:
        accepted, _ = self._listener.accept()
        self._strangers.add(Connection(accepted.detach()))

    def _serve(self, connection: Connection) -> None:
        began = time.monotonic()
        try:
            message = protocol.receive(connection)
            if connection in self._strangers:
                self._admit(connection, message)
                return
            client = self._clients[connection]
            protocol.send(connection, self._handle(client, message))
        except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
            self._lose(connection, error)
            return
        waited = max(0.0, began - message["sent"])
        self._figures.note(client.member.seat, message["do"], waited, time.monotonic() - began)

    def _handle(self, client: _Client, message: dict[str, Any]) -> dict[str, Any]:
        shard = self._shard
        assert shard is not None
        do = message["do"]
        if do == "elastic":
            shard.elastic(client.desk, float(message["alpha"]))
        elif do == "flush":
            shard.flush(client.desk, float(message["share"]))
        elif do == "fetch":
            shard.fetch(client.desk)
        elif do == "peek":
            shard.peek(client.desk)
        elif do == "leave":
            self._seats[client.member.seat] = "left"
            others = [seat for seat in range(self._directory.founders) if seat != client.member.seat]
            return {"last": all(self._gone(seat) for seat in others)}
        else:
            raise ValueError(f"got request {do!r}")
        return {"number": shard.moves, "version": shard.version}

    def _admit(self, connection: Connection, message: dict[str, Any]) -> None:
        """Somebody says who it is: let it in if it knows the password and runs the same model."""
        if not protocol.same_key(self._key, message.get("key")):
            raise ValueError("got a wrong password")
        member, model = Member(*message["member"]), (int(message["dimension"]), int(message["fingerprint"]))
        self._strangers.discard(connection)
        first = next(iter(self._clients.values()), None)
        if first is not None and first.model != model:
            same = f"expected the same model on every worker (names, shapes, dtype) as on worker {first.member.seat}"
            protocol.send(connection, {"refused": f"got another model on worker {member.seat}, {same}"})
            connection.close()
            return
        cuts = protocol.cuts(model[0], self._shards)
        begin, end = cuts[self._index], cuts[self._index + 1]
        dtype: torch.dtype = getattr(torch, message["dtype"])
        mapped: Any = map_file(self._desk(member), model[0] * dtype.itemsize)
        part = torch.frombuffer(mapped, dtype=dtype)[begin:end]
        weights = min(max(int(message["weights"]) - begin, 0), end - begin)
        self._clients[connection] = _Client(member, part, model, weights, int(message["version"]))
        self._seats[member.seat] = "here"
        if self._shard is not None:
            self._welcome(connection)

    def _start(self) -> None:
        """Once all founders are here, or time is up: w~ is the newest that any of them brings, else the lowest's."""
        if self._shard is not None or not self._clients:
            return
        assert self._deadline is not None
        missing = [seat for seat in range(self._directory.founders) if seat not in self._seats]
        if missing and time.monotonic() < self._deadline:
            return
        if missing:
            _log.warning("central variable: starts without workers %s, which have not come up", missing)
        first = max(self._clients.values(), key=lambda client: (client.version, -client.member.seat))
        self._shard = Shard(first.desk.clone(), first.weights, first.version)
        self._deadline = None
        _log.info(
            "central variable, shard %d of %d: starts with worker %d's", self._index, self._shards, first.member[0]
        )
        for connection in [*self._clients]:
            self._welcome(connection)

    def _welcome(self, connection: Connection) -> None:
        shard = self._shard
        assert shard is not None
        shard.peek(self._clients[connection].desk)
        try:
            protocol.send(connection, {"number": shard.moves, "version": shard.version})
        except OSError as error:
            self._lose(connection, error)

    def _lose(self, connection: Connection, error: Exception) -> None:
        self._strangers.discard(connection)
        client = self._clients.pop(connection, None)
        connection.close()
        if client is None:
            return
        self._desk(client.member).unlink(missing_ok=True)
        seat = client.member.seat
        if self._seats[seat] == "here" and not any(other.member.seat == seat for other in self._clients.values()):
            self._seats[seat] = "lost"
            reason = "" if isinstance(error, EOFError | OSError) else f" ({type(error).__name__}: {error})"
            _log.warning("central variable: worker %d is gone without a word%s", seat, reason)

    def _desk(self, member: Member) -> Path:
        return self._directory.path / f"{member.seat}-{member.generation}.desk"

    def _tell(self, last: bool = False) -> None:
        now, figures = time.monotonic(), self._figures
        if self._report is None or not figures.operations or not (last or now - figures.since >= REPORT_S):
            return
        assert self._shard is not None
        here = sum(state == "here" for state in self._seats.values())
        self._report(self._shard.version, figures.summary(now) | {"version": self._shard.version, "workers": here})
        self._figures = Figures(now)
