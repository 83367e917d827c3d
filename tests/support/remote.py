"""Objects that live in a process or a thread of their own and do what a test asks them to.

`in_process_of_its_own` and `in_a_thread` start one and return its `Handle`. Processes come from a fork server that has
imported torch already, so that starting one takes some hundredths of a second.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
"""How long an answer may take on a machine that is busy with other things."""

_ENDING_S = 5.0

CONTEXT = multiprocessing.get_context("forkserver")
"""Where processes come from."""

_PRELOADED = ["torch.distributed", "torch.nn.parallel", "torch._dynamo", "torch.utils.tensorboard"]
_OURS = ["launch.cli", "launch.command_line", "launch.supervisor", "launch.worker", "launch.join"]
CONTEXT.set_forkserver_preload([*_PRELOADED, *_OURS])


class RemoteError(Exception):
    """What an object at the other end raised, with its traceback as text."""


class Handle:
    """The near end of an object elsewhere."""

    def __init__(self, connection: Connection, runner: Any) -> None:
        self._connection = connection
        self.runner = runner
        self._asked = 0

    @property
    def pid(self) -> int:
        """Of its process; this one's for a thread."""
        return getattr(self.runner, "pid", os.getpid())

    def begin(self, name: str, *arguments: Any) -> None:
        """Ask for a method call without waiting for the answer."""
        self._connection.send((name, arguments))
        self._asked += 1

    def answered(self) -> bool:
        """Whether an answer can be collected without waiting."""
        return self._connection.poll(0)

    def answer(self, timeout_s: float = PATIENCE_S) -> Any:
        """The result of the oldest call that was begun."""
        if not self._connection.poll(timeout_s):
            raise TimeoutError(f"no answer within {timeout_s} s")
        self._asked -= 1
        kind, value = self._connection.recv()
        if kind == "raised":
            raise RemoteError(value)
        return value

    def ask(self, name: str, *arguments: Any, timeout_s: float = PATIENCE_S) -> Any:
        """Call a method and wait for its result."""
        assert not self._asked, "an earlier answer has not been collected"
        self.begin(name, *arguments)
        return self.answer(timeout_s)

    def signal(self, number: int) -> None:
        """Send a signal to its process; a stop has taken effect on return."""
        os.kill(self.pid, number)
        if number == signal.SIGSTOP:
            until(lambda: process_state(self.pid) == "T")

    def end(self) -> None:
        """Be done with it."""
        if MEASURED and not self._asked:
            with contextlib.suppress(OSError):
                self._connection.send(None)
            self.runner.join(_ENDING_S)
        if self.runner.is_alive():
            self.kill()

    def kill(self) -> None:
        """SIGKILL its process; it has been reaped on return. A thread just ends after what it is doing."""
        if isinstance(self.runner, threading.Thread):
            with contextlib.suppress(OSError):
                self._connection.send(None)
        else:
            self.runner.kill()
        self.runner.join(PATIENCE_S)
        assert not self.runner.is_alive()
        self._connection.close()


MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ
"""Whether it is written down which lines the tests run, as a process can only do that ends by itself."""


def process_state(pid: int) -> str:
    """The one-letter state of a process, as in /proc; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def until(ready: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Wait until `ready()` is true and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := ready()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {timeout_s} s: {ready}")
        time.sleep(0.002)
    return found


def in_process_of_its_own(make: Callable[..., Any], *arguments: Any, **environment: str) -> Handle:
    """Start a process that makes an object and serves calls of its methods; keywords are added to its environment."""
    near, far = CONTEXT.Pipe()
    everything = {**os.environ, **environment}
    process = CONTEXT.Process(target=_serve, args=(far, make, arguments, everything), daemon=True)
    process.start()
    far.close()
    return _started(Handle(near, process))


def in_a_thread(make: Callable[..., Any], *arguments: Any) -> Handle:
    """Start a thread that makes an object and serves calls of its methods."""
    near, far = CONTEXT.Pipe()
    thread = threading.Thread(target=_serve, args=(far, make, arguments, None), daemon=True)
    thread.start()
    return _started(Handle(near, thread))


def _started(handle: Handle) -> Handle:
    handle._asked = 1
    return handle


def _serve(connection: Connection, make: Callable[..., Any], arguments: Any, environment: Any) -> None:
    if environment is not None:
        import torch

        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(1)
    served: Any = None
    name: str | None = ""
    while name is not None:
        try:
            if name:
                answer = getattr(served, name)(*arguments)
            else:
                served, answer = make(*arguments), None
            reply = ("value", answer)
        except Exception:
            reply = ("raised", traceback.format_exc())
        try:
            connection.send(reply)
            name, arguments = connection.recv() or (None, ())
        except (EOFError, OSError):
            return
    connection.close()


def answers(handles: Sequence[Handle], timeout_s: float = PATIENCE_S) -> list[Any]:
    """The results of calls begun on each handle."""
    return [handle.answer(timeout_s) for handle in handles]


def ask_all(handles: Sequence[Handle], name: str, *arguments: Any, timeout_s: float = PATIENCE_S) -> list[Any]:
    """Call a method on each at the same time."""
    for handle in handles:
        handle.begin(name, *arguments)
    return answers(handles, timeout_s)


@contextlib.contextmanager
def reaped(handles: list[Handle]) -> Iterator[list[Handle]]:
    """Kill whatever the body has put into the list, whether it passed or not."""
    try:
        yield handles
    finally:
        for handle in handles:
            handle.end()
