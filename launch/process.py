"""What a process does first, before torch is there: its encoding and streams, where it finds modules, how it ends.

Imports nothing of this project before the end.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import io
import locale
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

SUPERVISOR = "GOSGD_SUPERVISOR"
"""Environment variable with the launcher's process id; a worker ends when that process does."""

GRACE = "GOSGD_GRACE_S"
"""Environment variable with the seconds that a worker may take to save and leave once its launcher is gone."""

DETACHED = "GOSGD_DETACHED"
"""Environment variable that is set where workers go on to the end of the job without their launcher."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP, signal.SIGQUIT)
"""What a launcher listens to."""

PR_SET_PDEATHSIG = 1
_ORPHAN_S = 5.0
_IMPORT_S = 60.0
_HELD_BACK = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}
_imported = threading.Event()


def speak_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale has another encoding: a run's files are the same anywhere."""
    encoding = locale.getpreferredencoding(False).lower().replace("-", "")
    if encoding != "utf8" and os.environ.get("PYTHONUTF8") != "1":  # else asked for in vain, as by python -E
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def complete() -> None:
    """Make up for what this process was started without."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # else files would take the numbers of closed streams
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may have any name
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nobody is told how a child has ended


def prctl(option: int, argument: Any) -> None:
    """Ask Linux for something that concerns this process."""
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


def let_users_modules_be_found() -> None:
    """`package.module:name` may live in the working directory; it is looked at last, so that it hides nothing."""
    here, ours = Path.cwd(), Path(__file__).parent.parent
    if here != ours:
        sys.path[:] = [*(entry for entry in sys.path if entry and Path(entry) != here), str(here)]


def end_with_the_supervisor(serves: bool = False) -> None:
    """Have the kernel send SIGTERM when the launcher dies, however it dies, so that no worker is left behind.

    A worker that is stuck and does not heed the signal in time is killed, with its loader processes. The workers of a
    detached job are not told; a server is (`serves`): it must not wait for workers that nobody will start again, and
    ends when those that are there have left.
    """
    detached = DETACHED in os.environ
    if SUPERVISOR not in os.environ or (detached and not serves):
        return
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if orphaned():  # before the kernel had been asked
        sys.exit(128 + signal.SIGTERM)
    if detached:
        return
    threading.Thread(target=_end_when_orphaned, name="gosgd-orphan", daemon=True).start()


def leave(code: int) -> NoReturn:
    """End this process with all done that is to be done at an interpreter's end, but without taking it down.

    Threads of gloo's that are still there then abort, now and then, a process that is through.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever read it is gone
            stream.flush()
    os._exit(code)


def orphaned() -> bool:
    """Whether the launcher that started this process is gone."""
    return SUPERVISOR in os.environ and os.getppid() != int(os.environ[SUPERVISOR])


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Hold signals back: an import that is broken off leaves modules in pieces, and nothing could be tidied up."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        yield
    finally:
        _imported.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_signals() -> None:
    """Before and after training a signal ends the process, but not without tidying up."""
    for number in _HELD_BACK:
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number if number == signal.SIGINT else 0)  # there is nothing to save, or it has been saved


def tidy_up(run_directory: Path) -> None:
    """At the end of a process whose launcher is gone, do what the launcher would at the end of the last one.

    Args:
        run_directory: of the job that this process was started for.
    """
    if not orphaned():
        return
    for number in _HELD_BACK:
        signal.signal(number, signal.SIG_IGN)
    from gossip.directory import JobDirectory
    from gossip.job import JOB
    from trainers.run_directory import RunDirectory

    job = JobDirectory(Path(os.environ[JOB]), 0, 0)
    job.let_go()
    directory = RunDirectory(run_directory)
    directory.forget(job)
    directory.pid(int(os.environ["RANK"])).unlink(missing_ok=True)


def _end_when_orphaned() -> None:
    while not orphaned():
        time.sleep(1.0)
    _imported.wait(_IMPORT_S)
    time.sleep(float(os.environ.get(GRACE, _ORPHAN_S)))
    os.killpg(0, signal.SIGKILL)
