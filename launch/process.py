"""What a process does first, before torch is there: where it finds modules, and that it ends with its launcher.

Imports nothing of this project.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

SUPERVISOR = "GOSGD_SUPERVISOR"
"""Environment variable with the launcher's process id; a worker ends when that process does."""

_PR_SET_PDEATHSIG = 1
_ORPHAN_S = 5.0


def let_users_modules_be_found() -> None:
    """`package.module:name` may live in the working directory; it is looked at last, so that it hides nothing."""
    here, ours = Path.cwd(), Path(__file__).parent.parent
    if here != ours:
        sys.path[:] = [*(entry for entry in sys.path if entry and Path(entry) != here), str(here)]


def end_with_the_supervisor() -> None:
    """Have the kernel send SIGTERM when the launcher dies, however it dies, so that no worker is left behind.

    A worker that is stuck and does not heed the signal is killed, with its loader processes, a few seconds later.
    """
    if SUPERVISOR not in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if orphaned():  # before the kernel had been asked
        sys.exit(128 + signal.SIGTERM)
    threading.Thread(target=_end_when_orphaned, name="gosgd-orphan", daemon=True).start()


def orphaned() -> bool:
    """Whether the launcher that started this process is gone."""
    return SUPERVISOR in os.environ and os.getppid() != int(os.environ[SUPERVISOR])


def _end_when_orphaned() -> None:
    while not orphaned():
        time.sleep(1.0)
    time.sleep(_ORPHAN_S)
    os.killpg(0, signal.SIGKILL)
