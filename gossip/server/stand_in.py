"""What stands for a worker of another host on the server's: its desk, its control words, its connection to the server.

Imports gossip's lower modules, gossip.server's frames and protocol, and torch. The server and whoever looks at the
job see a worker of their own host. A stand-in outlives the worker's TCP connections: it knows whether a request whose
answer was lost with one was met, and keeps what the desk held then, in a file that outlives the server, too.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossip import layout
from gossip.directory import map_file
from gossip.layout import Member, State, Words
from gossip.locks import Probe, lock, unlock
from gossip.publication import Publisher
from gossip.server import protocol
from gossip.server.frames import REPORTED, Frames
from gossip.transports.view import View

_log = logging.getLogger("gosgd")
GRACE_S, ABSENCE_S = 5.0, 60.0
"""For how long a worker may stay away before the server counts it as lost: one that hung up or died, for whom its host
says so, and one whose link is cut."""
_POLL_S = 0.1


class StandIn:
    """Of one worker; each of its connections is served by a thread of its own, one after the other.

    Args:
        view: of the job on this host.
        about: what the worker said of itself.
        totals: gives the local steps of all workers, without and with those of earlier jobs.

    Attributes:
        me: which worker.
        words: its control words, as far as it has told them.
        desk: [D].
        settled: whether the worker has said its last word.

    Raises:
        ValueError: a worker of this host has the seat, or shared memory is too small.
    """

    def __init__(self, view: View, about: dict[str, Any], totals: Callable[[], Sequence[int]]) -> None:
        self._view, self._totals = view, totals
        self.me = Member(*map(int, about["member"]))
        if not (0 <= self.me.seat < view.seats and self.me.generation >= 0):
            raise ValueError(f"got worker {self.me.seat}, expected 0 to {view.seats - 1}")
        self._dimension, self._dtype = int(about["dimension"]), getattr(torch, str(about["dtype"]))
        self._turn, self._guard = threading.Lock(), threading.Lock()
        self._newest = 0
        self._timer: threading.Timer | None = None
        self._frames: Frames | None = None
        self._server: Connection | None = None
        self._answered: dict[str, Any] = {"request": 0, "number": 0, "version": 0}
        self._publisher: Publisher | None = None
        self.settled = self._locked = False
        self._appear()
        try:
            self.desk = self._tensor(self._file("far"), self._dimension)
            self.words: Words = self._map("words", layout.size(view.seats) * layout.WORD).cast("Q")
        except (OSError, ValueError):
            self._unlock()
            raise
        self.words[0] = layout.MAGIC
        self.words[layout.DIMENSION], self.words[layout.FINGERPRINT] = self._dimension, int(about["fingerprint"])
        self.words[layout.STATE] = State.ACTIVE
        view.board[self.me.seat] = max(view.board[self.me.seat], self.me.generation + 1)

    def serve(self, frames: Frames, about: dict[str, Any]) -> None:
        """Serve a connection until its end; the one before it ends first, with what it has begun."""
        with self._guard:
            self._newest += 1
            mine, (before, self._frames) = self._newest, (self._frames, frames)
            if self._timer is not None:
                self._timer.cancel()
        if before is not None:
            before.end()
        grace_s = GRACE_S
        with self._turn:
            try:
                if mine == self._newest and not self.settled:
                    self._attend(frames, about)
            except (EOFError, ConnectionError):
                pass
            except OSError:
                grace_s = ABSENCE_S
            except (ValueError, KeyError, TypeError) as error:
                _log.warning("central variable: worker %d of another host: %s", self.me.seat, error)
            finally:
                frames.close()
        with self._guard:
            if mine == self._newest and not self.settled:
                self._timer = threading.Timer(grace_s, self._lose, (mine,))
                self._timer.daemon = True
                self._timer.start()

    def give_way(self) -> None:
        """Another incarnation has taken the seat."""
        self.end()
        self._file("far").unlink(missing_ok=True)

    def end(self) -> None:
        """Hang up; the worker may come back to the next server."""
        with self._guard:
            self._newest += 1
            mine, frames = self._newest, self._frames
            if self._timer is not None:
                self._timer.cancel()
        if frames is not None:
            frames.end()
        self._lose(mine)

    def _attend(self, frames: Frames, about: dict[str, Any]) -> None:
        self._note(about["words"])
        again = bool(about["again"])
        if not (again and self._server is not None):
            if not again:
                frames.receive(self.desk)
            self._answered = self._enter(frames, about)
            if "refused" in self._answered:
                frames.send(self._answered)
                return
        met = self._answered["request"] == about["request"]
        whole = not again or (met and about["under_way"] in protocol.TAKEN)
        before = [self._view.open(Member(self.me.seat, age))[layout.STEP] for age in range(self.me.generation)]
        frames.send(self._answered | self._news() | {"before": max(before, default=0)}, self.desk if whole else None)
        while not self.settled:
            self._meet(frames, frames.receive(self.desk))

    def _meet(self, frames: Frames, message: dict[str, Any]) -> None:
        do = message["do"]
        self._note(message.pop("words"))
        message["sent"] = time.monotonic()  # by this host's clock, which tells nothing about the worker's
        if do == "show":
            self._publisher = self._publisher or Publisher(self)
            self._publisher.publish(self.desk, int(message["step"]))
            return
        answer = self._ask(message, answered=do != "bye")
        if answer is None:
            self._settle()
            return
        self._answered = answer | {"request": message["request"]}
        frames.send(answer | self._news(), self.desk if do in protocol.TAKEN else None)

    def _ask(self, message: dict[str, Any], answered: bool) -> dict[str, Any] | None:
        assert self._server is not None
        try:
            protocol.send(self._server, message)
            return protocol.receive(self._server) if answered else None
        except (EOFError, OSError):
            self._hang_up()
            raise

    def _enter(self, frames: Frames, about: dict[str, Any]) -> dict[str, Any]:
        """Connect to the server as a worker of this host does; what it says, once the job's founders are there."""
        self._hang_up()
        self._appear()
        path = self._view.directory.path
        server = Client(protocol.address(path, 0), family="AF_UNIX")
        assert isinstance(server, Connection)
        self._server = server
        try:
            protocol.send(server, about | {"key": protocol.read_key(path, 0), "far": True})
            while not server.poll(_POLL_S):
                if frames.poll(0):  # who has nothing to say now: it has gone
                    raise EOFError
            return protocol.receive(server)
        except BaseException:
            self._hang_up()
            raise

    def _lose(self, mine: int) -> None:
        with self._turn:
            if mine == self._newest and not self.settled:
                self._hang_up()
                self.words[layout.PUBLISHED] = 0  # nobody is to take it for one that is here
                self._unlock()

    def _settle(self) -> None:
        self.settled = True
        self._hang_up()
        self.words[layout.STATE] = State.GONE
        self._unlock()
        self._file("far").unlink(missing_ok=True)

    def _hang_up(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _note(self, words: Sequence[int]) -> None:
        for index, word in zip(REPORTED, words, strict=True):
            self.words[index] = int(word)

    def _news(self) -> dict[str, int]:
        done, ever = self._totals()
        return {"done": done, "ever": ever, "mine": self.words[layout.DONE]}

    # ---- its files

    def _appear(self) -> None:
        """Be there as a worker is that lives: with a lock, which shows that somebody is at work in the directory."""
        if self._locked:
            return
        path = self._file("lock")
        if path.exists():
            probe = Probe(path)
            held = probe.held()
            probe.close()
            if held:
                raise ValueError(f"got worker {self.me.seat} of another host, expected the one of this host")
            path.unlink()  # of a server before this one
        lock(path)
        self._locked = True

    def _unlock(self) -> None:
        unlock(self._file("lock"))
        self._locked = False

    def _file(self, kind: str) -> Path:
        return self._view.file(self.me, kind)

    def open(self, member: Member) -> Words:
        """A member's control words."""
        return self._view.open(member)

    def publication(self, member: Member, create: bool = False) -> Tensor:
        """This worker's two snapshots [2, D]."""
        return self._tensor(self._file("published"), 2 * self._dimension).view(2, self._dimension)

    def _tensor(self, path: Path, elements: int) -> Tensor:
        size = elements * self._dtype.itemsize
        mapped: Any = _mapped(path, size)
        return torch.frombuffer(mapped, dtype=self._dtype)

    def _map(self, kind: str, size: int) -> memoryview:
        return memoryview(_mapped(self._file(kind), size))


def _mapped(path: Path, size: int) -> Any:
    """A file that an earlier server may have made; one that it did not live to finish is made anew."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == size:
            return map_file(path, size)
        path.unlink()
    return map_file(path, size, create=True)
