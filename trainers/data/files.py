"""Finding the files of published data sets, and fetching them when asked. Imports no other module of ours."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Remote:
    """One published file.

    Args:
        md5: of the file as published; it tells a broken download, the address is what is trusted.
        unpack: writes what the downloaded file holds into a folder; None where the file is used as it is.
    """

    url: str
    md5: str
    unpack: Callable[[Path, Path], None] | None = None


class MissingFilesError(ValueError):
    """Files of a published data set are not there.

    Args:
        sought: which, and where.
        home: the page to get them from.
    """

    def __init__(self, sought: str, home: str) -> None:
        super().__init__(f"{sought}\nget the files from {home} and set data.root, or set data.download=true")
        self.sought, self.home = sought, home


@dataclass(frozen=True)
class Published:
    """Where the files of one data set may lie under a root, and where they come from.

    Args:
        folders: below the root, searched in this order after the root itself; a download goes to the first.
        home: the page to send people to.
        gzipped: whether a file may also lie there with `.gz`.
    """

    name: str
    folders: tuple[str, ...]
    home: str
    gzipped: bool = False

    def locate(self, root: str, files: dict[str, Remote], *, download: bool) -> dict[str, Path]:
        """Paths of all `files`.

        Raises:
            MissingFilesError: a file is missing and was not to be downloaded.
            ValueError: it could not be downloaded.
        """
        base = Path(root).expanduser()
        folders = [base, *(base / folder for folder in self.folders)]
        found = {name: self._first(folders, name) for name in files}
        if download and None in found.values():
            with _alone(folders[1]):
                for name, remote in files.items():
                    if self._first(folders, name) is None:
                        _fetch(remote, folders[1])
            found = {name: self._first(folders, name) for name in files}
        missing = [name for name, path in found.items() if path is None]
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            name = missing[0] + "[.gz]" * self.gzipped
            raise MissingFilesError(
                f"{self.name}: found no {name}{others}; looked in {', '.join(map(str, folders))}", self.home
            )
        return {name: path for name, path in found.items() if path is not None}

    def _first(self, folders: Sequence[Path], name: str) -> Path | None:
        spellings = (name, f"{name}.gz") if self.gzipped else (name,)
        candidates = (folder / spelled for folder in folders for spelled in spellings)
        return next((path for path in candidates if path.is_file()), None)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process of this host at a time: the workers of a run all come here at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".download.lock").open("w")
    except OSError as error:
        raise ValueError(
            f"cannot download to {folder}: {error.strerror}; set data.root to a writable folder"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(remote: Remote, folder: Path) -> None:
    target = folder / remote.url.rsplit("/", 1)[1]
    partial = target.with_name(target.name + ".part")
    logger.info("downloading %s to %s", remote.url, folder)
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(remote.url, timeout=_TIMEOUT_SECONDS) as answer, partial.open("wb") as file:
            while chunk := answer.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != remote.md5:
            raise ValueError(
                f"{remote.url}: got a file with md5 {digest.hexdigest()}, expected {remote.md5}; try again"
            )
        if remote.unpack is None:
            partial.replace(target)
        else:
            remote.unpack(partial, folder)
    except (OSError, HTTPException) as error:
        raise ValueError(f"cannot download {remote.url}: {error}; get it by other means and set data.root") from error
    finally:
        partial.unlink(missing_ok=True)


def broken(path: Path, what: str) -> ValueError:
    """The error for a file whose contents are not what they should be."""
    return ValueError(f"{path}: {what}; check it or get it again")
