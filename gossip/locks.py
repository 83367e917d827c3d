"""Record locks on files: they go with the process that holds them, and so prove a death. Imports open_files only."""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
from pathlib import Path

from gossip import open_files

_FLOCK = "hhqqi"  # struct flock of Linux: type, whence, start, length, pid

_held: dict[Path, int] = {}
"""Lock files this process holds open. They are never opened twice: closing any descriptor of a file drops its locks."""


def lock(path: Path) -> None:
    """Create a file and hold a POSIX record lock on it for the rest of this process's life.

    A record lock, unlike an open-file-description lock, is not inherited by forked children (DataLoader workers), so
    its absence proves that this very process is gone. The file is locked before it appears: who looks at it in between
    would take a living process for a dead one.

    Raises:
        FileExistsError: there is such a file already.
    """
    draft = path.with_name(f".{secrets.token_hex(8)}")
    with open_files.counted():
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.link(draft, path)
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        draft.unlink(missing_ok=True)
    _held[path] = descriptor


def unlock(path: Path) -> None:
    """Give up a lock taken with `lock`."""
    descriptor = _held.pop(path, None)
    if descriptor is not None:
        os.close(descriptor)


def hold(path: Path) -> bool:
    """Hold a lock on a file that may be there already, unless somebody holds it, this process included.

    Returns:
        Whether it is held now, by this call.
    """
    if path in _held:
        return False
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _held[path] = descriptor
    return True


def moved(path: Path, to: Path) -> None:
    """Note that a file on which this process holds a lock has another path now."""
    _held[to] = _held.pop(path)


def unlock_all(folder: Path) -> None:
    """Give up all locks on files of a folder."""
    for path in [path for path in _held if path.parent == folder]:
        unlock(path)


class Probe:
    """Asks whether somebody holds a record lock on a file; keeps the file open between questions."""

    def __init__(self, path: Path) -> None:
        self._own = path in _held
        with open_files.counted():
            self._descriptor = -1 if self._own else os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def held(self) -> bool:
        """Whether the process that locked the file is still there."""
        if self._own:
            return True
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(self._descriptor, fcntl.F_GETLK, request)
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Stop asking."""
        if not self._own and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_held(file: Path) -> bool:
    """Whether a living process holds a lock on a file; not if there is no such file."""
    try:
        probe = Probe(file)
    except FileNotFoundError:
        return False
    try:
        return probe.held()
    finally:
        probe.close()
