"""What the launcher says when it ends early, and its exit codes. Imports configs.blame, once there is an error."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback

DONE, FAILED, MISTAKE = 0, 1, 2
_LONGEST = 1000


class RunFailedError(Exception):
    """A run that cannot go on, through no mistake in what was asked for; the message says why and where to look."""


def say(error: BaseException | str) -> None:
    """An error as one or two lines on stderr."""
    text = told(error) if isinstance(error, BaseException) else error
    first, *others = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    second = " ".join(others)
    with contextlib.suppress(OSError):  # the terminal may have been closed
        print("\n".join([f"gosgd: {first}", *([second[:_LONGEST]] if second else [])]), file=sys.stderr, flush=True)


def told(error: BaseException, whole: bool = True) -> str:
    """What an error says, or its first line, and where in the user's code it comes from."""
    try:
        from configs import blame
    except ImportError:  # that is then the error
        return str(error)
    return blame.told(error, whole)


def said(log: str) -> str:
    """What `say` wrote last to a log, without its prefix; empty if it wrote nothing."""
    _, found, last = f"\n{log}".rpartition("\ngosgd: ")
    return "\n".join(last.splitlines()[:2]) if found else ""


def log_traceback() -> str:
    """Write the exception under way to a file of its own; returns its path, empty where nothing can be written."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="gosgd-", suffix=".log", text=True)
        with os.fdopen(descriptor, "w") as file:
            traceback.print_exc(file=file)
    except OSError:
        return ""
    return path
