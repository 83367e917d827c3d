"""A process that has imported what workers need, and of which they are forked.

Imports launch.process and launch.start.

A fresh interpreter takes seconds to import torch. Every worker would take them at the start of a job, and again each
time it is restarted, on a machine whose cores the others need; a fork takes hundredths of a second, and the workers
share the memory that the modules lie in.

The nursery is itself a fork of the launcher, from before the launcher has read the configuration: nothing of the user's
has been imported, and no file but the standard ones is open. It is not the workers' parent. Each is the child of a
process between, which ends at once and so leaves it to the launcher: the launcher is told of the worker's end, a worker
of the launcher's, and nobody misses a nursery that dies. It is the worker that answers the launcher, and one whose
answer is not awaited any more ends: whatever becomes of the nursery meanwhile, a worker is started once.

Accelerators' drivers do not outlive a fork. Where torch finds one, there is no nursery, and workers start in fresh
interpreters.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import importlib
import json
import logging
import multiprocessing
import os
import select
import signal
import socket
import sys
import time
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import torch
from typing_extensions import Self

from launch.process import PR_SET_PDEATHSIG, SIGNALS, prctl
from launch.start import Start, spawn

METHOD = "GOSGD_START_METHOD"
"""Environment variable: `spawn` has workers start in fresh interpreters everywhere."""

# torch._dynamo is imported by the first step of any optimizer.
_IMPORTS = ("launch.worker", "launch.server", "gossip.server.process", "torch._dynamo")
_ANSWER_S = 10.0
_IMPORT_S = 60.0
_LONGEST = 1 << 18
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36


class Nursery:
    """Starts processes, by forking where that can be.

    Made by a launcher before it reads what it is to launch, and closed when it has ended.

    Attributes:
        pid: of the nursery; None where there is none, or none any more.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self._imported = False
        if not _can_fork():
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = _fork()
        if not pid:
            _tend(theirs)
        theirs.close()
        ours.settimeout(_ANSWER_S)
        self.pid, self._socket = pid, ours
        self._deadline = time.monotonic() + _IMPORT_S

    @property
    def ready(self) -> bool:
        """Whether `start` would return at once: not before the nursery has imported everything."""
        if self.pid is None or self._imported:
            return True
        if select.select([self._socket], [], [], 0)[0]:
            self._imported = self._answer() is not None
            return True
        return time.monotonic() > self._deadline

    def start(self, start: Start) -> int:
        """Start a process that is this one's child. Returns its id."""
        pid = None if self.pid is None else self._fork(start)
        if pid is None:
            self.close()  # it has been killed, or hangs
            pid = spawn(start)
        return pid

    def close(self) -> None:
        """End the nursery; processes that it has started go on."""
        if self.pid is not None:
            self._socket.close()
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            self.pid = None

    def _fork(self, start: Start) -> int | None:
        """Have the nursery start a process; None if it does not."""
        if not self._imported and self._answer() is None:
            return None
        self._imported = True
        here = {"cwd": str(Path.cwd()), "path": sys.path, "environment": {**os.environ, **start.environment}}
        _adopt(True)
        try:
            self._socket.send(json.dumps(dataclasses.asdict(start) | here, default=str).encode())
            pid = self._answer()
            if pid is None:
                self._socket.shutdown(socket.SHUT_RD)  # from here on no process can answer, and so begin
                pid = self._answer()
        except OSError:
            return None
        finally:
            _adopt(False)
        return None if pid is None else int(pid)

    def _answer(self) -> Any:
        """What the nursery says; None if it says nothing any more."""
        try:
            said = self._socket.recv(_LONGEST)
        except OSError:
            return None
        return json.loads(said) if said else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _can_fork() -> bool:
    return (
        sys.platform == "linux"
        and os.environ.get(METHOD) != "spawn"
        and torch.accelerator.current_accelerator(check_available=True) is None
    )


def _fork() -> int:
    with warnings.catch_warnings():  # of threads, of which libraries have some that their own handlers look after
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _adopt(willing: bool) -> None:
    """Whether this process becomes the parent of descendants whose own parent ends."""
    prctl(_PR_SET_CHILD_SUBREAPER, int(willing))


def _tend(requests: socket.socket) -> NoReturn:
    """Be the nursery."""
    launcher = os.getppid()
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(_PR_SET_NAME, b"gosgd-nursery")
        os.setsid()
        for number in SIGNALS:  # what is ignored, as under nohup, stays so
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        opened = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
        for descriptor in opened:  # not up to the limit, of which some containers have none
            if descriptor > 2 and descriptor != requests.fileno():
                with contextlib.suppress(OSError):  # that of the folder that was listed
                    os.close(descriptor)
        for descriptor in range(3):
            _redirect(descriptor, os.devnull, os.O_RDWR)
        for name in _IMPORTS:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()  # a collection in a child would write to, and so copy, all there is
        requests.send(b"{}")
        while request := requests.recv(_LONGEST):
            _deliver(requests, launcher, json.loads(request))
    finally:
        os._exit(0)


def _deliver(requests: socket.socket, launcher: int, request: dict[str, Any]) -> None:
    """Fork a process that becomes the launcher's child and tells it its id."""
    between = _fork()
    if not between:
        code = 1
        try:
            target = (requests, launcher, os.getpid(), request)
            multiprocessing.get_context("fork").Process(target=_live, args=target).start()
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(between, 0)[1]:
        raise RuntimeError("no process could be started")


def _live(requests: socket.socket, launcher: int, between: int, request: dict[str, Any]) -> NoReturn:
    """Be the process that was asked for."""
    while os.getppid() == between:
        time.sleep(0.001)
    os.setsid()
    try:
        requests.send(str(os.getpid()).encode())
    except OSError:
        if os.getppid() == launcher:  # which has given it up; if it is dead, there may be something to tidy up
            os._exit(1)
    requests.close()
    os.chdir(request["cwd"])
    sys.path[:] = request["path"]
    os.environ.clear()
    os.environ.update(request["environment"])
    _begin_anew()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    _redirect(1, request["stdout"], flags)
    _redirect(2, request["stderr"], flags)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    prctl(_PR_SET_NAME, request["name"].encode())
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments: Sequence[str] = request["arguments"]
    sys.argv = [request["module"], *arguments]
    try:
        sys.exit(importlib.import_module(request["module"]).main(arguments))
    finally:
        atexit._run_exitfuncs()


def _begin_anew() -> None:
    """Put right what an interpreter does at its start, and what a module may not share with its like elsewhere."""
    multiprocessing.set_start_method(None, force=True)  # the user's to choose
    atexit._clear()  # the launcher does at its end what it has to do
    finalizers: Any = weakref.finalize
    finalizers._registry.clear()
    finalizers._registered_with_atexit = False
    atexit.register(logging.shutdown)
    np.random.seed()  # else the same numbers in all workers
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if threads.isdecimal() and int(threads):  # read when torch was imported, elsewhere
        torch.set_num_threads(int(threads))


def _redirect(number: int, path: str, flags: int) -> None:
    descriptor = os.open(path, flags, 0o666)
    os.dup2(descriptor, number)
    os.close(descriptor)
