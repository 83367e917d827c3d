"""How a worker reaches a server on another host: over TCP, with the vectors in the messages.

Imports gossip.hosts, gossip.records, and gossip.server's frames, protocol and waiting.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed import DistError

from gossip import layout
from gossip.hosts import PATIENCE_S, Hosts
from gossip.server.frames import REPORTED, Frames, introduce
from gossip.server.protocol import BROUGHT, Line, ServerLostError
from gossip.server.waiting import Waiting
from gossip.transports.shared_memory import SharedMemory

_log = logging.getLogger("gosgd")
_RECORD = "center"
_ADDRESS = "MASTER_ADDR"
_PAUSE_S, _LOOK_S = 0.1, 1.0
_CONNECT_S = 2.0
_HEAR_S = 10.0
_GRACE_S = 5.0


def listen(hosts: Hosts) -> socket.socket:
    """A port for workers of other hosts, told to them: the server process takes it over, one after the other.

    It is on the interface that torchrun's store has on this host, or on all where that cannot be told.
    """
    name = os.environ.get(_ADDRESS, "127.0.0.1")
    try:
        family, _, _, _, where = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)[0]
        here = str(where[0])
        if here.startswith("127.") and here != name:  # a host's own name, which leads to its loopback from there alone
            raise OSError
        listener = socket.create_server((here, 0), family=family, backlog=128)
    except OSError:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        listener = socket.create_server(("", 0), family=family, backlog=128, dualstack_ipv6=both)
    hosts.tell(_RECORD, [name, listener.getsockname()[1]])
    return listener


class Far:
    """The way between hosts.

    Args:
        hosts: of the job.
        transport: of this worker, on its own host.

    Attributes:
        desk: [D], where vectors are handed over; this worker's own.
        grace_s: how long an interrupted worker waits for an answer still.
        before: steps that this worker's predecessors on its seat had behind them, once the server has said so.
    """

    grace_s = _GRACE_S

    def __init__(self, hosts: Hosts, transport: SharedMemory) -> None:
        self._hosts, self._transport = hosts, transport
        self._seat = transport.me.seat
        self.desk = torch.zeros(transport.dimension, dtype=transport.dtype)
        self.before = 0
        self._where: tuple[str, int] | None = None
        self._looked = 0.0
        self._told = (0, 0, 0)
        self._line: FarLine | None = None

    def show(self, vector: Tensor, step: int) -> None:
        """Let whoever evaluates on the server's host look at `vector` [D]; lost if there is no connection just now."""
        if self._line is not None:
            self.desk.copy_(vector)
            with contextlib.suppress(OSError):  # as the next request will find
                self._line.send({"do": "show", "step": step})

    def total(self, earlier: bool) -> int:
        """Local steps of all workers as of this worker's last request, and its own since.

        Args:
            earlier: whether to count those of an earlier job that this one resumes.
        """
        done, ever, mine = self._told
        return (ever if earlier else done) + self._transport.words[layout.DONE] - mine

    def call(self, shard: int, about: dict[str, Any], interrupted: Callable[[], bool]) -> Line | None:
        """Connect to the server, once it is there, and say who this is; None when interrupted first.

        Args:
            shard: which; there is one.
            about: this worker, and what it is about to ask.
            interrupted: asked while waiting.

        Raises:
            ServerLostError: there will be none any more, or none that can be reached.
            ValueError: it has another secret.
        """
        assert shard == 0
        waiting = Waiting(self._seat, "the server")
        while not interrupted():
            try:
                line = self._line = self._connected(waiting, interrupted)
                if line is not None:
                    line.greet(about)
                return line
            except ConnectionRefusedError:
                self._look_up_again()
            except (EOFError, OSError) as error:  # the link is cut, or the server has gone in the middle
                _log.debug("worker %d: no connection to the server: %s", self._seat, error)
            if waiting.waited_s > PATIENCE_S:
                raise ServerLostError(
                    f"worker {self._seat}: the server of the central variable could not be reached for {PATIENCE_S:.0f}"
                    " s: its host has gone, or the link to it is cut; resume the job from its checkpoints"
                )
            waiting.complain()
            time.sleep(_PAUSE_S)
        return None

    def _connected(self, waiting: Waiting, interrupted: Callable[[], bool]) -> FarLine | None:
        if self._where is None:
            while not self._hosts.told(_RECORD):
                if interrupted():
                    return None
                waiting.complain()
                time.sleep(_PAUSE_S)
            self._look_up(_HEAR_S)
        assert self._where is not None
        frames = Frames(socket.create_connection(self._where, _CONNECT_S))
        try:
            frames.patience(None)
            while not frames.poll(_PAUSE_S):  # a server that is stopped, or that is just being started again
                if interrupted():
                    frames.close()
                    return None
                waiting.complain()
            try:
                introduce(frames, self._hosts.key)
            except (ValueError, KeyError) as error:
                where = "{}:{}".format(*self._where)
                raise ValueError(
                    f"worker {self._seat}: the server of the central variable at {where} does not have this job's"
                    f" secret ({error}), expected all workers to have the same GOSGD_SECRET"
                ) from None
        except BaseException:
            frames.close()
            raise
        return FarLine(self, frames)

    def _look_up(self, timeout_s: float) -> None:
        address, port = self._hosts.hear(_RECORD, timeout_s)
        self._where = str(address), int(port)

    def _look_up_again(self) -> None:
        """Nobody listens where the server was: worker 0 may have been started again, or is gone with the job's end."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        try:
            self._look_up(_HEAR_S)
        except (DistError, TimeoutError, RuntimeError) as error:
            raise ServerLostError(
                f"worker {self._seat}: the central variable has no server, and will have none: worker 0 is gone, and"
                f" torchrun's store with it ({' '.join(str(error).split())[:120]})"
            ) from None

    def heed(self, answer: dict[str, Any]) -> None:
        """Take from an answer what it says about all workers."""
        if "ever" in answer:
            self._told = int(answer["done"]), int(answer["ever"]), int(answer["mine"])
        self.before = int(answer.get("before", self.before))

    def report(self) -> list[int]:
        """What the server's host is to know of this worker."""
        return [self._transport.words[index] for index in REPORTED]


class FarLine:
    """A connection of this kind: what the desk holds goes with the messages."""

    def __init__(self, far: Far, frames: Frames) -> None:
        self._far, self._frames = far, frames

    def greet(self, about: dict[str, Any]) -> None:
        """Say who this is; whoever has nothing under way brings what it would start with."""
        try:
            self._frames.send(about | {"words": self._far.report()})
            if not about["again"]:
                self._frames.send({"do": "offer"}, self._far.desk)
        except OSError:
            self.close()
            raise

    def send(self, message: dict[str, Any]) -> None:
        """One request, with what the desk holds for it."""
        brings = message["do"] in BROUGHT
        self._frames.send(message | {"words": self._far.report()}, self._far.desk if brings else None)

    def poll(self, timeout_s: float) -> bool:
        """Whether something comes within this time."""
        return self._frames.poll(timeout_s)

    def receive(self) -> dict[str, Any]:
        """One answer, after which the desk holds what belongs to it."""
        answer = self._frames.receive(self._far.desk)
        self._far.heed(answer)
        return answer

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._frames.close()
