"""How many files a process may have open: a member has several of each other one's. Imports nothing of this project."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Iterator

_MOST = 65536
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
                " raise the hard limit (ulimit -Hn, docker run --ulimit nofile=65536) or use fewer workers"
            )
            raise TooManyFilesError(error.errno, text) from None
        raise
