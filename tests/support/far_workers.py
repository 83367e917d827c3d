"""Workers of a job with a server, each on a host of its own: they meet through the machine's loopback.

`FarTeam` is a `Team` of which worker 0 alone shares memory with the server; a `Link` may be cut between two hosts.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from support.remote import Handle, in_process_of_its_own
from support.workers import CenterServer, Team, Worker, make_worker
from torch.distributed import TCPStore

from gossip.directory import JobDirectory
from gossip.hosts import Hosts
from gossip.job import Job
from gossip.server.far import listen
from gossip.server.gate import Gate

KEY = b"of these tests"


def hosts_of(port: int, workers: int, rank: int) -> Hosts:
    """A host for each worker, which meet in the store at this port."""
    return Hosts(TCPStore("127.0.0.1", port, wait_for_workers=False), KEY, "far", [[m] for m in range(workers)], [rank])


class GateServer(CenterServer):
    """The process that keeps the central variable, for workers of other hosts, too."""

    def __init__(self, directory: str, listener: socket.socket) -> None:
        super().__init__(directory)
        Gate(JobDirectory.open(directory), listener, KEY).start()


def make_far(make: partial[Worker], directory: str, port: int, workers: int, rank: int) -> Worker:
    """A worker on a host of its own."""
    method, options, arguments = make.args
    place = JobDirectory.open(directory)
    job = Job(rank, workers, 0, place, supervised=True, hosts=hosts_of(port, workers, rank))
    return make_worker(method, options | {"job": job}, arguments, rank)


class FarTeam(Team):
    """All workers of one job, arguments as of `Team`."""

    def __init__(
        self, method: str, workers: int, options: dict[str, Any], absent: Sequence[int] = (), **arguments: Any
    ) -> None:
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.listener = listen(hosts_of(self.store.port, workers, 0))
        self.elsewhere = [JobDirectory.create(workers, workers) for _ in range(workers - 1)]
        super().__init__(method, workers, options, absent, **arguments)

    def serve(self) -> None:
        self.server = in_process_of_its_own(GateServer, str(self.directory.path), self.listener)
        self.server.answer()
        self.everybody.append(self.server)

    def run(self, rank: int) -> Handle:
        place = [self.directory, *self.elsewhere][rank]
        make = partial(make_far, self.make, str(place.path), self.store.port, self.size)
        handle = in_process_of_its_own(make, rank)
        self.everybody.append(handle)
        return handle

    def end(self) -> None:
        super().end()
        self.listener.close()
        for directory in self.elsewhere:
            directory.remove()


class Link:
    """Carries what goes to a port and back, until it is cut; connections that come after that go through again.

    Args:
        port: where to.

    Attributes:
        port: where from.
        left: bytes until it is cut; None for never.
        cuts: how often it was.
        again: gives the bytes until the next cut.
    """

    def __init__(self, port: int, again: Callable[[], int | None] = lambda: None) -> None:
        self._to, self._lock = port, threading.Lock()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.again, self.left, self.cuts = again, again(), 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    near.close()
                    continue
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := one.recv(1 << 14):
                with self._lock:
                    if self.left is not None and self.left <= len(content):
                        content, cut = content[: self.left], True
                        self.left = self.again()
                    else:
                        self.left, cut = None if self.left is None else self.left - len(content), False
                other.sendall(content)
                if cut:
                    self.cut()
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        one.close()

    def cut(self) -> None:
        """End all connections."""
        self.cuts += 1
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Carry nothing any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
