"""Files that are either whole or absent, and that only their user can read. Imports nothing of this project."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], object], flush: bool = True) -> None:
    """Have `write` fill a temporary file beside `path`, flush it to disk, and rename it into place.

    A crash or a full disk leaves the earlier file as it was; the temporary one is removed.

    Args:
        flush: not needed where the file is of no use after a crash of the machine.

    Raises:
        OSError: the disk refused it; its file name is that of `path` where the system gives none.
    """
    private_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        write(draft)
        if flush:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
        if flush:
            _flush_names(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(draft)):
            error.filename = str(path)
        raise


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: null for a float that is no finite number, which JSON has no word for."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def private_folder(path: Path) -> Path:
    """Make a folder that its user alone can enter; one that is there already stays as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def append_line(path: Path, text: str) -> None:
    """Add a line to a file that its user alone can read.

    Raises:
        OSError: the disk refused it, and nothing is added.
    """
    descriptor = open_to_append(path)
    try:
        append(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)


def open_to_append(path: Path) -> int:
    """The descriptor of a file that only grows."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def append(descriptor: int, line: bytes) -> None:
    """Add a whole line in one write, so that lines of two writers never mix.

    Raises:
        OSError: the disk refused it, and nothing is added.
    """
    written = os.write(descriptor, line)
    if written < len(line):  # the disk was full in the middle of it
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _flush_names(folder: Path) -> None:
    """Make a rename survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that need or know no such thing
            raise
    finally:
        os.close(descriptor)
