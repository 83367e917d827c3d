"""What the methods share whose central variable w~ a server keeps. Imports gossip.methods.base and gossip.server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from gossip import layout
from gossip.layout import Member
from gossip.methods.base import Exchange, MethodConfig
from gossip.publication import Published
from gossip.server.client import Center
from gossip.server.far import Far, listen
from gossip.server.process import OwnServer, serving
from gossip.server.protocol import Loss, check_address, check_hosts, over, placement
from gossip.server.serve import Server
from gossip.transports.shared_memory import SharedMemory

_WAIT_S = 0.1


class ServedConfig(MethodConfig):
    """Options of every method with a server.

    Attributes:
        server_loss: what the death of the process that keeps w~ means: `restart` it, while workers wait and say so; no
            move is lost, because w~ lies in memory that outlives the process; or `stop` the job.
        snapshot_s: seconds between snapshots of w~ on disk, with which a later job can begin; 0 for the end only.
    """

    server_loss: Loss = "restart"
    snapshot_s: float = Field(default=30.0, ge=0)


class Served(Exchange):
    """Base of the methods in which workers meet a central variable, each by its own clock.

    A worker that is started again takes w~, and the step count of its predecessor; its optimizer state starts empty.
    Where workers are on several hosts, the server is on worker 0's, and what stands there for those of the others is
    all that anybody sees of them.

    Attributes:
        center: w~, from `start` on.
        folder: where snapshots of w~ are kept, and looked for at the start; to be set before `start`.
    """

    rejoins = True
    options: ServedConfig
    center: Center
    folder: Path | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._joined = False
        self._snapshot: dict[str, Any] = {}
        self._parent = os.getppid()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._interrupted: Callable[[], bool] = lambda: False

    def _take_seat(self) -> SharedMemory:
        """Take this worker's seat; on several hosts the store says how many have had it before."""
        hosts, flat, seat = self.job.hosts, self.flat, self.job.rank
        self._far: Far | None = None
        if hosts is None:
            return super()._take_seat()
        try:
            check_hosts(self.options.serving)
        except ValueError:
            self.job.abort()
            raise
        generation = hosts.take(seat)
        hosts.open()
        transport = SharedMemory(
            self.job.directory, seat, flat.dimension, flat.vector.dtype, 0, flat.fingerprint, generation
        )
        self._far = None if 0 in hosts.here else Far(hosts, transport)
        return transport

    def start(self, steps: int = 0, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Take part in the job: bring up the server if that is this worker's business, wait for the founders, take w~.

        A worker that goes on from a checkpoint keeps its weights and offers the w~ it has saved; of several the newest
        is taken.
        """
        self._interrupted = interrupted
        again = self.me.generation > 0
        if again:
            before = [Member(self.me.seat, age) for age in range(self.me.generation)]
            steps = max(self.transport.open(member)[layout.STEP] for member in before)
        where = placement(self.options.serving, self.job.workers, self.job.supervised)
        check_address(self.job.directory.path.parent, self.job.workers)
        shards = self.job.workers if where == "sharded" else 1
        alive = self._serve(shards) if where == "sharded" else self._start_server()
        # Nobody starts a single worker again under torchrun, and with it its part.
        patient = self.options.server_loss == "restart" and (where == "process" or self.job.supervised)
        self.center = Center(
            self.transport, shards, self.flat.weights, alive, patient, self.options.snapshot_s, self._far
        )
        offer = self._snapshot.get("center", self.flat.vector)
        self._joined = self.center.join(offer, self._snapshot.get("versions", [0] * shards), interrupted)
        if again and self._far is not None:
            steps = max(steps, self._far.before)
        fresh = steps == 0 or again
        if self._joined:
            self._enter(steps, fresh)
        super().start(steps, interrupted)
        if self._joined:
            self._centered(self.center.desk)
        return again and self._joined

    def _enter(self, steps: int, fresh: bool) -> None:
        """The desk holds w~; a fresh worker has nothing of its own yet and takes it."""
        if fresh:
            self.flat.vector.copy_(self.center.desk)

    def _serve(self, shards: int) -> Callable[[], bool]:
        """Serve this worker's part of w~ from a thread."""
        shard = self.job.rank if shards > 1 else 0
        restarts = self.job.supervised and self.options.server_loss == "restart"
        self._server = Server(self.job.directory, shard, shards, restarts=restarts, folder=self.folder)
        self._thread = threading.Thread(target=self._server.run, name="gosgd-server", daemon=True)
        self._thread.start()
        return self._anybody

    def _start_server(self) -> Callable[[], bool]:
        """Start a server process if no launcher does and this is worker 0; it ends by itself when all have left."""
        if self.job.supervised or self.job.rank != 0:
            return self._anybody
        servers: list[OwnServer] = []

        def alive() -> bool:
            if not servers and serving(self.job.directory):
                return True  # that of this worker's predecessor, which serves workers of other hosts
            if not servers:
                servers.append(self._own_server())
            return servers[0].alive()

        alive()
        return alive

    def _own_server(self) -> OwnServer:
        arguments, hosts = [*self.job.server, str(self.job.directory.path)], self.job.hosts
        if self.folder is not None:
            arguments.append(str(self.folder))
        restarts = OwnServer.RESTARTS if self.options.server_loss == "restart" else 0
        if self.me.generation:  # the last server ended because all workers were lost at once; w~ lies there still
            over(self.job.directory.path).unlink(missing_ok=True)
        return OwnServer(arguments, restarts, None if hosts is None else listen(hosts))

    def _anybody(self) -> bool:
        """Whether somebody is there who starts a server: a launcher, or the first worker."""
        if self.job.supervised:
            return os.getppid() == self._parent
        age = self.transport.board[0]
        return not age or not self.transport.dead(Member(0, age - 1))

    def received(self) -> Tensor:
        """What the desk holds, on the model's device."""
        return self.center.desk.to(self.flat.vector.device)

    def central(self) -> Tensor | None:
        """w~ [D] as the server has it now."""
        return self.center.peek().clone() if self._joined else None

    def served(self) -> dict[str, float | None]:
        """Figures about the server since the start: requests, and milliseconds until an answer."""
        if not self._joined:
            return {}
        count = self.center.requests
        return {
            "requests": count,
            "answer_ms": 1e3 * self.center.waited_s / count if count else None,
            "center_version": max(self.center.versions),
        }

    def state_dict(self) -> dict[str, Any]:
        """w~ and how many moves it has behind it, for each shard."""
        center = self.central()
        return self._snapshot if center is None else {"center": center, "versions": self.center.versions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; to be called before `start`."""
        if state:
            self._expect(state, "center")
        self._snapshot = state

    def publish(self) -> None:
        """Show a snapshot of the weights to whoever evaluates, on whichever host; never waits for an answer."""
        super().publish()
        if self._far is not None and self._joined:
            self._far.show(self.flat.vector, self.steps)

    def published(self) -> list[Published]:
        """The newest snapshot of every member that is alive or left at its end."""
        if self.job.hosts is None or self._far is not None:
            return super().published()
        # A server that is started again shows those of other hosts as it did, though for a moment they seemed dead.
        away = [member for member in self.transport.members() if member.seat not in self.job.here]
        found = [self.publisher.read(member) for member in away]
        local = [one for one in super().published() if one.member.seat in self.job.here]
        return sorted([*local, *(one for one in found if one is not None)], key=lambda one: one.member)

    def lowest(self) -> bool:
        """Whether this is the worker that evaluates: of several hosts one on the server's, which sees all others."""
        if self.job.hosts is None:
            return super().lowest()
        lower = [member for member in self.transport.members() if member < self.me and member.seat in self.job.here]
        return self._far is None and all(self._finished(one) or self.transport.dead(one) for one in lower)

    def total_done(self) -> int:
        """Local steps made by all members together, the dead ones' included."""
        return super().total_done() if self._far is None else self._far.total(earlier=False)

    def total_ever(self) -> int:
        """`total_done`, and the steps of an earlier job that this one resumes."""
        return super().total_ever() if self._far is None else self._far.total(earlier=True)

    def _finish(self) -> None:
        """What a worker still owes w~ when it leaves."""

    def _leave(self, timeout_s: float) -> bool:
        """Leave; whoever is last takes w~. A worker that holds a part of w~ goes on serving it until then."""
        if not self._joined:
            return False
        self._finish()
        self._see_off(timeout_s)
        last = self.center.leave()
        if last and (at := self.center.fetch()) is not None:
            self.flat.vector.copy_(self.center.desk)
            self._moved("fetch", at=at, cuts=self.center.cuts)
        else:
            last = False
            self._part()
        return last

    def _see_off(self, timeout_s: float) -> None:
        """Where workers are on several hosts, the first one leaves last: it alone can look at what all have left."""
        if self.job.hosts is None or self.job.rank != 0:
            return
        deadline = None
        while self.center.others():
            if self._interrupted():
                deadline = deadline or time.monotonic() + timeout_s
                if time.monotonic() > deadline:
                    return
            time.sleep(_WAIT_S)

    def release(self, last: bool) -> None:
        """Let go of w~, too. The last worker does so only now: until then it could be started again."""
        self._part()
        super().release(last)

    def _part(self) -> None:
        if not self._joined:
            return
        self.center.close()
        self._joined = False
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(_WAIT_S)
            if self._server is not None and self._interrupted():
                self._server.end()
