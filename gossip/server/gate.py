"""Where workers of other hosts come in: a port of the server's host. Imports gossip.server's frames and stand_in.

Each connection has a thread of its own, so that one that is slow, cut or silent holds up nobody else: the server itself
is asked only once a request is here as a whole.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import Any

from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import Member
from gossip.server.frames import Frames, admit
from gossip.server.stand_in import StandIn
from gossip.transports.view import View

_log = logging.getLogger("gosgd")
_LOOK_S = 0.5
_STRANGERS = 64
_INTRODUCTION_S = 10.0


class Gate(threading.Thread):
    """Lets in who has the job's key.

    Args:
        directory: of the job on this host, in which a server serves the whole of w~.
        listener: the port; the process that made it keeps it open, too, for the next server.
        key: of the job, see gossip.records.
    """

    def __init__(self, directory: JobDirectory, listener: socket.socket, key: bytes) -> None:
        super().__init__(name="gosgd-gate", daemon=True)
        self._view, self._listener, self._key = View(directory), listener, key
        self._stand_ins: dict[int, StandIn] = {}
        self._guard, self._looking = threading.Lock(), threading.Lock()
        self._strangers = threading.BoundedSemaphore(_STRANGERS)
        self._ended = threading.Event()
        listener.settimeout(_LOOK_S)

    def run(self) -> None:
        """Let in until `end`."""
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                accepted, _ = self._listener.accept()
                accepted.settimeout(None)
                if not self._strangers.acquire(blocking=False):
                    accepted.close()
                    continue
                threading.Thread(target=self._greet, args=(accepted,), name="gosgd-far", daemon=True).start()

    def end(self) -> None:
        """Hang up on everybody."""
        self._ended.set()
        self.join()
        self._listener.close()
        with self._guard:
            stand_ins = [*self._stand_ins.values()]
        for one in stand_ins:
            one.end()

    def _greet(self, accepted: socket.socket) -> None:
        frames = Frames(accepted)
        try:
            try:
                frames.patience(_INTRODUCTION_S)
                admit(frames, self._key)
                about = frames.receive()
                frames.patience(None)
            finally:
                self._strangers.release()
            stand_in = self._stand_in(about)
        except (EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if not isinstance(error, EOFError | OSError):
                _log.warning("central variable: somebody on another host is not let in: %s", error)
                with contextlib.suppress(OSError):
                    frames.send({"refused": str(error)})
            frames.close()
            return
        stand_in.serve(frames, about)

    def _stand_in(self, about: dict[str, Any]) -> StandIn:
        member = Member(*map(int, about["member"]))
        with self._guard:
            known = self._stand_ins.get(member.seat)
            if known is not None and member < known.me:
                raise ValueError(f"got worker {member.seat}'s life {member.generation} after {known.me.generation}")
            if known is None or known.me != member:
                if known is not None:
                    known.give_way()
                self._stand_ins[member.seat] = StandIn(self._view, about, self._totals)
            return self._stand_ins[member.seat]

    def _totals(self) -> tuple[int, int]:
        with self._looking:
            everybody = [self._view.open(member) for member in self._view.everybody()]
        done = sum(words[layout.DONE] for words in everybody)
        return done, done + sum(words[layout.EARLIER] for words in everybody)
