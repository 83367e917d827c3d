"""A process that keeps the whole of the central variable, and how a worker starts one where no launcher does.

Imports gossip.server.serve.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gossip.directory import JobDirectory
from gossip.server.serve import Report, Server

_log = logging.getLogger("gosgd")
_SETTLED_S = 60.0

_processes: list[subprocess.Popen[bytes]] = []
"""Servers that this process has started; each ends when its job does."""


def serve(
    directory: str, restarts: bool, watched: bool, report: Report | None = None, folder: Path | None = None
) -> None:
    """Serve the whole of w~ until the workers have left, or, after a signal, until none is connected.

    Args:
        directory: of the job.
        restarts: whether a launcher starts lost workers again.
        watched: whether somebody else sees to it that this process ends with its job; else standard input does.
        report: given figures now and then.
        folder: of snapshots.
    """
    server = Server(JobDirectory.open(directory), restarts=restarts, report=report, folder=folder)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: server.end())
    server.run(None if watched else sys.stdin.fileno())


class OwnServer:
    """A server process that this one has started and starts again.

    Args:
        arguments: of the interpreter.
        restarts: how often in a row; one that has lived for a minute is forgiven.
    """

    RESTARTS = 3

    def __init__(self, arguments: Sequence[str], restarts: int = RESTARTS) -> None:
        self._arguments, self._restarts = arguments, restarts
        self._failures = 0
        self._start()

    def _start(self) -> None:
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *self._arguments],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the workers; the server goes when they have gone
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
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
