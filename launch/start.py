"""What it takes to start a process of a job, and starting one in a fresh interpreter. Imports nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Start:
    """A process to be started, in a session of its own and with nothing to read.

    Attributes:
        name: what the kernel calls it in `ps` and `top`, where it is forked; at most 15 bytes of it are seen.
        module: whose `main(arguments)` it runs, and whose result is its exit code.
        arguments: words of a command line.
        environment: in addition to this process's own.
        stdout: file that its output goes to.
        stderr: file that its errors go to.
    """

    name: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    stdout: Path
    stderr: Path


def spawn(start: Start) -> int:
    """Start the process in a fresh interpreter, which imports torch anew: seconds. Returns its id."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", start.module, *start.arguments],
        {**os.environ, **start.environment},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(start.stdout), flags, 0o666),
            (os.POSIX_SPAWN_OPEN, 2, str(start.stderr), flags, 0o666),
        ],
        setsid=True,
    )
