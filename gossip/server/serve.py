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
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from gossip.directory import JobDirectory
from gossip.layout import Member
from gossip.server import protocol
from gossip.server.attendance import Attendance
from gossip.server.clients import Client, model_of
from gossip.server.figures import Figures
from gossip.server.memory import Memory
from gossip.server.shard import Shard
from gossip.server.snapshots import Snapshots
from gossip.transports.view import View

_log = logging.getLogger("gosgd")
REPORT_S = 5.0
START_S = 120.0
_LOOK_S = 0.25
Report = Callable[[int, dict[str, Any]], None]


class Server:
    """Serves one shard until every worker has left.

    Args:
        directory: of the job. If an earlier server of this shard was killed in it, this one goes on with what is there.
        shard: which one.
        shards: of how many.
        restarts: whether somebody starts lost workers again, so that the job is not over without them.
        report: given the version and the figures every few seconds in which something happened, and at the end.
        start_s: how long founders that came wait for those that did not.
        folder: where snapshots are kept, and looked for at the start.
    """

    def __init__(
        self,
        directory: JobDirectory,
        shard: int = 0,
        shards: int = 1,
        restarts: bool = False,
        report: Report | None = None,
        start_s: float = START_S,
        folder: Path | None = None,
    ) -> None:
        self._directory, self._index, self._shards = directory, shard, shards
        self._name = f"central variable, shard {shard} of {shards}"
        self._report = report
        self._deadline: float | None = time.monotonic() + start_s
        self._shard: Shard | None = None
        self._snapshots = None if folder is None else Snapshots(folder, shard, shards)
        self._snapshot_s = 0.0
        self._strangers: set[Connection] = set()
        self._clients: dict[Connection, Client] = {}
        self._seats = Attendance(directory, restarts)
        self._rest, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        self._figures = Figures(time.monotonic())
        self._recover()
        where = Path(protocol.address(directory.path, shard))
        where.unlink(missing_ok=True)
        self._key = protocol.make_key(directory.path, shard)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(where))
        where.chmod(0o600)
        self._listener.listen(128)

    def _recover(self) -> None:
        """Take over from an earlier server of this job."""
        memory = Memory.open(protocol.memory(self._directory.path, self._index), self._directory.seats)
        if memory is None:
            return
        self._shard, self._deadline = Shard(memory), None
        self._seats.keep(memory, self._directory.seats)
        view = View(self._directory)
        for desk in self._directory.path.glob("*.desk"):  # of workers that have died since
            seat, generation = desk.stem.split("-")
            if view.dead(Member(int(seat), int(generation))):
                desk.unlink(missing_ok=True)
        _log.warning("%s: its server has died; goes on after %d moves, none is lost", self._name, memory.moves)

    def end(self) -> None:
        """Have the loop end as soon as no worker is connected; may be called from a signal handler."""
        self._seats.ending = True
        with contextlib.suppress(OSError):
            os.write(self._bell, b".")

    def run(self, parent: int | None = None) -> None:
        """Serve.

        Args:
            parent: a descriptor that comes to its end when nobody stands behind this server any more.
        """
        try:
            while self._clients or not self._seats.over:
                known: list[Any] = [self._listener, self._rest, *self._strangers, *self._clients]
                ready = wait([*known, parent] if parent is not None else known, self._pause())
                for one in ready:
                    if one is self._listener:
                        self._greet()
                    elif one == self._rest:
                        os.read(self._rest, 64)
                    elif one == parent:
                        parent, self._seats.ending = None, True
                    elif isinstance(one, Connection):
                        self._serve(one)
                self._start()
                if self._snapshots is not None and self._shard is not None:
                    self._snapshots.look(self._shard, self._snapshot_s)
                self._tell()
            with contextlib.suppress(FileNotFoundError):  # the directory may have been removed by now
                protocol.over(self._directory.path).touch(mode=0o600)
        finally:
            self._close()

    def _close(self) -> None:
        self._tell(last=True)
        self._listener.close()
        for connection in [*self._strangers, *self._clients]:
            connection.close()
        if self._snapshots is not None and self._shard is not None:
            self._snapshots.take(self._shard, wait=True)
        os.close(self._rest)
        bell, self._bell = self._bell, -1  # a late signal must not ring what has its number by then
        os.close(bell)

    def _pause(self) -> float | None:
        """Until something is due that no message announces."""
        starting = self._clients and self._deadline is not None
        due = [time.monotonic() + _LOOK_S] if starting else []  # a founder may have been given up
        if self._report is not None and self._figures.operations:
            due.append(self._figures.since + REPORT_S)
        if self._snapshots is not None and self._shard is not None:
            due += self._snapshots.due(self._shard, self._snapshot_s)
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
            answer = self._handle(client, message)
            if answer is None:
                return
            protocol.send(connection, answer)
        except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
            if connection in self._clients and not isinstance(error, EOFError | OSError):
                with contextlib.suppress(OSError):
                    protocol.send(connection, {"refused": f"got a request that the server cannot meet: {error!r}"})
            self._lose(connection, error)
            return
        waited = max(0.0, began - message["sent"])
        if message["do"] == "others":  # asked again and again, to no effect
            return
        self._figures.note(client.member.seat, message["do"], waited, time.monotonic() - began)

    def _handle(self, client: Client, message: dict[str, Any]) -> dict[str, Any] | None:
        shard = self._shard
        assert shard is not None
        do, seat, request = message["do"], client.member.seat, int(message["request"])
        if do == "elastic":
            shard.elastic(client.desk, float(message["alpha"]), seat, request)
        elif do == "flush":
            shard.flush(client.desk, float(message["share"]), seat, request)
        elif do == "fetch":
            shard.fetch(client.desk, seat, request)
        elif do == "peek":
            shard.peek(client.desk)
        elif do == "others":
            return {"others": self._seats.others(seat)}
        elif do == "leave":
            return {"last": self._seats.leave(seat)}
        elif do == "bye":
            client.settled = True
            return None
        else:
            raise ValueError(f"got request {do!r}")
        return {"number": shard.moves, "version": shard.version}

    def _admit(self, connection: Connection, message: dict[str, Any]) -> None:
        """Somebody says who it is: let it in if it knows the password and runs the same model."""
        if not protocol.same_key(self._key, message.get("key")):
            raise ValueError("got a wrong password")
        member, model = Member(*message["member"]), model_of(message)
        again = bool(message["again"])
        self._strangers.discard(connection)
        first = next(iter(self._clients.values()), None)
        if first is not None and first.part.model != model:
            same = f"expected the same model on every worker (names, shapes, dtype) as on worker {first.member.seat}"
            self._refuse(connection, f"got another model on worker {member.seat}, {same}")
            return
        if again and self._shard is None:
            self._refuse(connection, "got a server that knows nothing of this job, expected one that goes on with it")
            return
        try:
            client = Client.of(message, self._directory, self._index, self._shards)
        except OSError as error:
            self._refuse(connection, f"got worker {member.seat} without a desk ({error}), expected one in the job")
            return
        self._snapshot_s = float(message["snapshot_s"])
        self._clients[connection] = client
        if again:  # its desk holds what its request under way needs
            self._seats.back(member.seat)
        else:
            self._seats.come(member.seat)
        if self._shard is not None:
            self._welcome(connection, again)

    def _refuse(self, connection: Connection, why: str) -> None:
        protocol.send(connection, {"refused": why})
        connection.close()

    def _start(self) -> None:
        """Once all founders are here, or time is up: w~ is the newest that any of them or a snapshot brings."""
        if self._shard is not None or not self._clients:
            return
        assert self._deadline is not None
        missing = self._seats.missing
        if missing and time.monotonic() < self._deadline:
            return
        if missing:
            _log.warning("central variable: starts without workers %s, which have not come up", missing)
        first = max(self._clients.values(), key=lambda client: (client.part.version, -client.member.seat))
        part, whose = first.part, f"worker {first.member.seat}'s"
        kept = None if self._snapshots is None else self._snapshots.newest(part.model)
        if kept is not None and kept.version > part.version and kept.vector.dtype == part.vector.dtype:
            part, whose = kept, "the newest snapshot"
        path = protocol.memory(self._directory.path, self._index)
        memory = Memory.create(path, part, self._directory.seats)
        self._shard, self._deadline = Shard(memory), None
        self._seats.keep(memory, self._directory.seats)
        _log.info("%s: starts with %s, which has %d moves behind it", self._name, whose, part.version)
        for connection in [*self._clients]:
            self._welcome(connection)

    def _welcome(self, connection: Connection, again: bool = False) -> None:
        shard, client = self._shard, self._clients[connection]
        assert shard is not None
        if not again:
            shard.peek(client.desk)
        request, number = shard.memory.last(client.member.seat)
        try:
            protocol.send(connection, {"number": number, "request": request, "version": shard.version})
        except OSError as error:
            self._lose(connection, error)

    def _lose(self, connection: Connection, error: Exception) -> None:
        self._strangers.discard(connection)
        client = self._clients.pop(connection, None)
        connection.close()
        if client is None:
            return
        if not client.far:
            client.file.unlink(missing_ok=True)
        seat = client.member.seat
        if any(other.member.seat == seat for other in self._clients.values()):
            return
        if self._seats.lose(seat, client.settled):
            reason = "" if isinstance(error, EOFError | OSError) else f" ({type(error).__name__}: {error})"
            _log.warning("central variable: worker %d is gone without a word%s", seat, reason)

    def _tell(self, last: bool = False) -> None:
        now, figures = time.monotonic(), self._figures
        if self._report is None or not figures.operations or not (last or now - figures.since >= REPORT_S):
            return
        assert self._shard is not None
        about = {"version": self._shard.version, "workers": self._seats.here}
        self._report(self._shard.version, figures.summary(now) | about)
        self._figures = Figures(now)
