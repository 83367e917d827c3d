"""A process that keeps the whole of the central variable, and how a worker starts one where no launcher does.

Imports gossip.records, and gossip.server's gate and serve.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gossip.directory import JobDirectory
from gossip.locks import Probe
from gossip.records import job_key
from gossip.server import protocol
from gossip.server.gate import Gate
from gossip.server.serve import Report, Server

_log = logging.getLogger("gosgd")
_SETTLED_S = 60.0
_LISTENER = "GOSGD_CENTER_LISTENER"
"""Environment variable with the descriptor of the port for workers of other hosts, of server processes."""

_processes: list[subprocess.Popen[bytes]] = []
"""Servers that this process has started; each ends when its job does."""


def serve(
    directory: str, restarts: bool, watched: bool, report: Report | None = None, folder: Path | None = None
) -> None:
    """Serve the whole of w~ until the workers have left, or, after a signal, until none is connected.

    Where another process serves the job still, this one waits for its end.

    Args:
        directory: of the job.
        restarts: whether a launcher starts lost workers again.
        watched: whether somebody else sees to it that this process ends with its job; else standard input does.
        report: given figures now and then.
        folder: of snapshots.
    """
    job = JobDirectory.open(directory)
    turn = os.open(_turn(job), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.lockf(turn, fcntl.LOCK_EX)
    if protocol.over(job.path).exists():
        return
    server = Server(job, restarts=restarts, report=report, folder=folder)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: server.end())
    gate: Gate | None = None
    if _LISTENER in os.environ:
        gate = Gate(job, socket.socket(fileno=int(os.environ[_LISTENER])), job_key())
        gate.start()
    server.run(None if watched else sys.stdin.fileno())
    if gate is not None:
        gate.end()


def serving(directory: JobDirectory) -> bool:
    """Whether a process is there that serves the whole of w~."""
    try:
        probe = Probe(_turn(directory))
    except FileNotFoundError:
        return False
    held = probe.held()
    probe.close()
    return held


def _turn(directory: JobDirectory) -> Path:
    return directory.path / "center.turn"


class OwnServer:
    """A server process that this one has started and starts again.

    Args:
        arguments: of the interpreter.
        restarts: how often in a row; one that has lived for a minute is forgiven.
        listener: the port for workers of other hosts, if there are any; each server takes it over from the last one.
    """

    RESTARTS = 3

    def __init__(
        self, arguments: Sequence[str], restarts: int = RESTARTS, listener: socket.socket | None = None
    ) -> None:
        self._arguments, self._restarts, self._listener = arguments, restarts, listener
        self._failures = 0
        self._start()

    def _start(self) -> None:
        self._began = time.monotonic()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        ports = [] if self._listener is None else [self._listener.fileno()]
        for port in ports:
            environment[_LISTENER] = str(port)
        self._process = subprocess.Popen(
            [sys.executable, *self._arguments],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the workers; the server goes when they have gone
            env=environment,
            pass_fds=ports,
        )
        _processes.append(self._process)

    def alive(self) -> bool:
        """Whether there is a server, or another one has been started just now."""
        if self._process.poll() is None:
            return True
        self._failures = 1 if time.monotonic() - self._began >= _SETTLED_S else self._failures + 1
        if self._failures > self._restarts:
            return False
        _log.warning(
            "the server of the central variable has died (%d); restart %d of %d",
            self._process.returncode,
            self._failures,
            self._restarts,
        )
        self._start()
        return True
