"""`gosgd` as a process of its own that is forked where torch and this project's modules have been imported.

All else is as if it had been started in a fresh interpreter, which would take seconds to import them. A few tests start
one, to see that too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from support.remote import CONTEXT

ROOT = Path(__file__).parent.parent.parent


def environment() -> dict[str, str]:
    """For a process that is to find the packages, one thread each."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main(arguments: Sequence[str]) -> int:
    """`gosgd` in a process of its own, working where this one does; repeats what it says, and returns its exit code."""
    with Command(Path.cwd(), arguments, environment()) as process:
        try:
            code = process.wait()
        finally:
            process.kill()
        sys.stdout.write(process.output(0))
        sys.stderr.write(process.output(1))
    return code


class Command:
    """The part of `subprocess.Popen` that tests use.

    Args:
        folder: where it works.
        arguments: of the command line, without the name of the program.
        environment: all of it.

    Attributes:
        returncode: None while it runs, negative for a signal.
    """

    def __init__(self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.args = ["gosgd", *arguments]
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        descriptors = [_Descriptor(file.fileno()) for file in self._files]
        target = (str(folder), list(arguments), dict(environment), descriptors)
        self._process = CONTEXT.Process(target=_run, args=target)
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """See the class."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """What the return code is by now."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # the fork server knows of its end, and has yet to tell
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        """The return code, once there is one.

        Raises:
            subprocess.TimeoutExpired: there is none within `timeout` seconds.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait; what it wrote to standard output and to standard error."""
        self.wait(timeout)
        return self.output(0), self.output(1)

    def output(self, number: int) -> str:
        """What it has written by now, to standard output (0) or standard error (1)."""
        return Path(f"/proc/self/fd/{self._files[number].fileno()}").read_text()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.join()
        for file in self._files:
            file.close()


class _Descriptor:
    """A file descriptor that travels to a process of the fork server."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _taken, (reduction.DupFd(self.number),)


def _taken(copy: Any) -> int:
    return int(copy.detach())


def _run(folder: str, arguments: list[str], environment: dict[str, str], descriptors: list[int]) -> None:
    for number, descriptor in zip((1, 2), descriptors, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    import torch

    from launch.cli import main

    torch.set_num_threads(1)
    sys.exit(main(arguments))
