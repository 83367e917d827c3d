"""What the launcher says when it ends early, and its exit codes. Imports configs.blame, once there is an error."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator

DONE, FAILED, MISTAKE = 0, 1, 2
_LONGEST = 1000
_OF_PATHS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
"""What the system says of paths that were given wrong, or cannot be used by this user."""


class RunFailedError(Exception):
    """A run that cannot go on, through no mistake in what was asked for; the message says why and where to look."""


@contextlib.contextmanager
def paths_are_given() -> Iterator[None]:
    """Around work with paths that the user has given.

    Raises:
        ValueError: in place of what the system says of a path that cannot be used.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or error.errno not in _OF_PATHS:
            raise
        raise ValueError(
            f"got {os.fsdecode(error.filename)}, which cannot be used ({error.strerror}); expected another path"
        ) from error


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
