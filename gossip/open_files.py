"""How many files a process may have open: a member has several of each other one's. Imports nothing of this project."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Iterator

_MOST = 65536
_OWN = 24
"""A worker's own: streams, logs, metrics, what the job's directory holds of it, and what it reads its samples from."""
_OF_EACH = 3
"""Of each other worker's, beside slots: control words, lock and publication."""
_REMEDY = "raise the hard limit (ulimit -Hn, docker run --ulimit nofile=65536) or use fewer workers"
_USED_UP = (errno.EMFILE, errno.ENFILE)


class TooManyFilesError(OSError):
    """This process must not open as many files as the job needs; the message says what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


def allow() -> None:
    """Let this process and its children open as many files as the system lets it: the usual 1,024 are too few."""
    here, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if most == resource.RLIM_INFINITY else min(most, _MOST)
    if here != resource.RLIM_INFINITY and here < wanted:
        with contextlib.suppress(ValueError, OSError):  # the system allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def check(workers: int, slots: int) -> None:
    """Refuse more workers on this host than one of them can have the files of open.

    Args:
        workers: on this host.
        slots: of a worker.

    Raises:
        ValueError: the hard limit of open files is too low; what is under it can be raised, see `allow`.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = _OWN + slots + (workers - 1) * (_OF_EACH + slots)
    if most != resource.RLIM_INFINITY and most < needed:
        raise ValueError(
            f"got a hard limit of {most:,} open files for a process, expected {needed:,} or more for {workers} workers;"
            f" {_REMEDY}"
        )


def used_up(error: Exception) -> bool:
    """Whether a file could not be opened because of this process's limits, which says nothing of the file."""
    return isinstance(error, OSError) and error.errno in (*_USED_UP, errno.ENOMEM)


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Around opening a file.

    Raises:
        TooManyFilesError: in place of what the system says of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _USED_UP:
            most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            text = (
                f"got all {most:,} files open that this process may have, expected room for those of every worker;"
                f" {_REMEDY}"
            )
            raise TooManyFilesError(error.errno, text) from None
        raise
