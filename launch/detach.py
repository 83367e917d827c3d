"""Launching in the background: `gosgd train ... --detach`. Imports launch's lower modules when they are needed.

The launcher is started again in a session of its own. It says through a pipe that all workers are up, and only then
writes to its log instead of the terminal; so whatever keeps the job from starting is said where the command was given.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from launch.errors import DONE, RunFailedError

if TYPE_CHECKING:
    from gossip.directory import JobDirectory
    from launch.seat import Seat
    from trainers.run_directory import RunDirectory

_PIPE = "GOSGD_DETACH_PIPE"
"""Environment variable with the descriptor by which the launcher in the background says that it is up."""


def in_background() -> bool:
    """Whether this process is the launcher that `start` has started."""
    return _PIPE in os.environ


def start(arguments: Sequence[str]) -> int:
    """Run `gosgd` with these arguments in the background.

    Returns:
        The exit code: 0 once the workers are up, else that of the launcher, which has said why.

    Raises:
        RunFailedError: the launcher was killed before.
    """
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=(theirs,),
        start_new_session=True,
        env=os.environ
        | {_PIPE: str(theirs), "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    os.close(theirs)
    with os.fdopen(ours) as pipe, _signals_to(process) as signals:
        said = pipe.read()
        code = None if said else process.wait()
    if code is None:
        print(_account(process.pid, **json.loads(said)))
        return DONE
    if -code in signals:  # before it could listen
        return 128 - code
    if code < 0:
        raise RunFailedError(f"the launcher was killed by {signal.Signals(-code).name} before the workers were up")
    return code


@contextlib.contextmanager
def _signals_to(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Hand signals on to the launcher, which says what comes of them: who ends the command wants no job behind it.

    Yields:
        Those that have come.
    """
    came: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _account(pid: int, directory: str, log: str) -> str:
    rows = [
        ("run directory", directory),
        ("process id", str(pid)),
        ("follow it", f"tail -f {shlex.quote(log)}"),
        ("stop it", f"kill {pid}"),
    ]
    return "\n".join(f"{name:<13}  {value}" for name, value in rows)


class Announcement:
    """Says that the workers are up; from then on this process writes to its log.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._pipe: int | None = int(os.environ.pop(_PIPE))
        os.set_inheritable(self._pipe, False)

    def prepare(self, job: JobDirectory) -> None:
        """Look at the job."""
        from gossip.transports.view import View

        self._view = View(job)

    def turn(self, seats: Sequence[Seat]) -> None:
        """Look whether all workers are up."""
        if self._pipe is None or not all(self._here(seat) for seat in seats):
            return
        path = self._directory.logs.absolute() / "launcher.log"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
        about = {"directory": str(self._directory.path), "log": str(path)}
        with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
            os.write(self._pipe, json.dumps(about).encode())
        os.close(self._pipe)
        self._pipe = None

    def finish(self) -> None:
        """Nothing is left to do."""

    def _here(self, seat: Seat) -> bool:
        """Whether a worker has made a step, so that what it was asked for is in order, or had none to make."""
        from gossip import layout

        members = [self._view.open(member) for member in self._view.members() if member.seat == seat.rank]
        return any(words[layout.DONE] > 0 or words[layout.STATE] == layout.State.GONE for words in members)
