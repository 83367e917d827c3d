"""A process that keeps the whole of the central variable. Imports gossip.server.serve."""

from __future__ import annotations

import signal
import sys

from gossip.directory import JobDirectory
from gossip.server.serve import Report, Server


def serve(directory: str, restarts: bool, watched: bool, report: Report | None = None) -> None:
    """Serve the whole of w~ until the workers have left, or, after a signal, until none is connected.

    Args:
        directory: of the job.
        restarts: whether a launcher starts lost workers again.
        watched: whether somebody else sees to it that this process ends with its job; else standard input does.
        report: given figures now and then.
    """
    server = Server(JobDirectory.open(directory), restarts=restarts, report=report)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: server.end())
    server.run(None if watched else sys.stdin.fileno())
