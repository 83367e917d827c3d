"""The directory in shared memory through which a job's members on one host meet. Imports gossip's locks and open_files.

A job is a directory with an unguessable name that only its user can enter. Files are mapped by path rather than through
`multiprocessing.shared_memory`, whose tracker unlinks segments when any process of the job exits.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import secrets
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from gossip import open_files
from gossip.locks import hold, is_held, lock, moved, unlock, unlock_all

PREFIX = "gosgd-"
_OWNER = "owner.lock"
_KEPT = "kept-"
_WITHOUT = "without-"
_BUILDING_S = 60  # a directory under construction is left alone for this long


def root() -> Path:
    """Where job directories are made: $GOSGD_SHM_DIR, or /dev/shm."""
    return Path(os.environ.get("GOSGD_SHM_DIR", "/dev/shm"))


def map_file(path: Path, size: int, create: bool = False) -> mmap.mmap:
    """Map a file of `size` bytes, every page present.

    Space is reserved before it is mapped: a file system that is too small is an error here, not a SIGBUS later. Pages
    are touched now because a first touch during training costs 50 times the copy itself.

    Raises:
        ValueError: the file system has no room; the message names the bytes needed.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if create else 0)
    with open_files.counted():
        descriptor = os.open(path, flags, 0o600)
    try:
        if create:
            os.posix_fallocate(descriptor, 0, size)
        with open_files.counted():  # a mapping keeps its file open
            return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError as error:
        if create:
            path.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ValueError(no_room(path.parent, size)) from None
        raise
    finally:
        os.close(descriptor)


def write_privately(path: Path, text: str) -> None:
    """Make a file that only this user can read, whatever the umask."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)


def no_room(where: Path, needed: int) -> str:
    """The sentence for a shared-memory file system that is too small."""
    try:
        state = os.statvfs(where)
        free = f"{state.f_bavail * state.f_frsize:,} bytes free"
    except OSError:
        free = "no such directory"
    return (
        f"shared memory: got {free} in {where}, expected {needed:,} bytes; enlarge it (docker run --shm-size,"
        " mount -o remount,size=...), use fewer workers, or set GOSGD_SHM_DIR to a larger memory-backed directory"
    )


@dataclass(frozen=True)
class JobDirectory:
    """One job's directory.

    Attributes:
        path: the directory itself.
        seats: how many members can be alive at once.
        founders: how many the mass is first shared out to.
    """

    path: Path
    seats: int
    founders: int

    @classmethod
    def meet(cls, token: str, seats: int, founders: int) -> JobDirectory:
        """The directory that all workers of this host make together: whoever comes first makes it.

        Args:
            token: unguessable, known to all workers of the job on every host.
        """
        path = root() / f"{PREFIX}{token}"
        while not path.is_dir():
            try:
                return cls.create(seats, founders, token)
            except FileExistsError:
                continue
        return cls.open(path)

    def host(self) -> str:
        """What tells this directory from those that other hosts have made with the same token."""
        return str(json.loads((self.path / "job.json").read_text())["host"])

    @classmethod
    def create(cls, seats: int, founders: int, token: str = "") -> JobDirectory:
        """Make a job directory that nobody else can enter or guess; directories of dead jobs are removed first."""
        where = root()
        if not where.is_dir():
            raise ValueError(f"got shared-memory directory {where}, which does not exist; set GOSGD_SHM_DIR")
        remove_stale()
        token = token or secrets.token_hex(12)
        host = secrets.token_hex(12)
        building = where / f".{PREFIX}{host}"
        try:
            building.mkdir(mode=0o700)
            (building / "board").touch(mode=0o600)
            with (building / "board").open("r+b") as board:
                os.posix_fallocate(board.fileno(), 0, 8 * seats)
            write_privately(building / "job.json", json.dumps({"seats": seats, "founders": founders, "host": host}))
            lock(building / _OWNER)
            path = where / f"{PREFIX}{token}"
            building.rename(path)
            moved(building / _OWNER, path / _OWNER)
        except BaseException as error:  # Ctrl-C may come just now
            shutil.rmtree(building, ignore_errors=True)
            unlock(building / _OWNER)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise ValueError(no_room(where, 8 * seats)) from None
            if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
                raise FileExistsError(error.errno, "somebody else was first", str(path)) from None
            raise
        return cls(path, seats, founders)

    @classmethod
    def open(cls, path: Path | str) -> JobDirectory:
        """Open a job directory that another process of this host made.

        Raises:
            ValueError: there is none at `path`, or others than this user could have put something into it.
        """
        path = Path(path)
        try:
            _check_private(path)
            known = json.loads((path / "job.json").read_text())
            seats, founders = known["seats"], known["founders"]
            whole = (path / "board").stat().st_size == 8 * seats
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(
                f"got job directory {path}, which is unreadable here ({error}); is this another host?"
            ) from None
        if not (type(seats) is type(founders) is int and 0 < founders <= seats and whole):
            raise ValueError(f"got job directory {path} for {founders} of {seats} workers, expected one that is whole")
        return cls(path, seats, founders)

    def keep(self, seat: int) -> bool:
        """Keep a seat for a worker that is to come, until `let_go` or the end of this process.

        Returns:
            False if somebody else keeps it, or a living worker has it.
        """
        path = self.path / f"{_KEPT}{seat}.lock"
        if not hold(path):
            return False
        if any(is_held(file) for file in self.path.glob(f"{seat}-*.lock")):
            unlock(path)
            return False
        return True

    def give_up(self, seat: int) -> None:
        """Let nobody wait for the founder of a seat, who was taken out of the job before it took the seat."""
        (self.path / f"{_WITHOUT}{seat}").touch(mode=0o600)

    def given_up(self, seat: int) -> bool:
        """Whether nobody is to wait for the founder of a seat."""
        return (self.path / f"{_WITHOUT}{seat}").exists()

    def taken(self) -> set[int]:
        """Seats of living workers, and seats kept for some that are to come."""
        names = [file.name.removeprefix(_KEPT) for file in self.path.glob("*.lock") if is_held(file)]
        return {int(name.partition("-")[0].partition(".")[0]) for name in names if name != _OWNER}

    def let_go(self) -> None:
        """Stop owning the directory and keeping seats; whoever lets go when nobody is left in it removes it."""
        unlock_all(self.path)
        if self.path.is_dir() and not in_use(self.path):
            self.remove()

    def remove(self) -> None:
        """Remove the directory and everything in it. Mappings that are still open stay valid."""
        hidden = self.path.with_name(f".{self.path.name}")
        try:
            self.path.rename(hidden)  # first of all: whoever is still at work in it can put nothing more into it
        except OSError:
            hidden = self.path
        shutil.rmtree(hidden, ignore_errors=True)
        unlock(self.path / _OWNER)


def _check_private(path: Path) -> None:
    state = path.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise ValueError(
            f"got job directory {path} of user {state.st_uid} with mode {stat.filemode(state.st_mode)}, expected a"
            f" directory of this user's ({os.getuid()}) with mode 0700: somebody else may have put files into it"
        )


def remove_stale() -> list[Path]:
    """Remove this user's job directories in which no process holds a lock any more; returns what was removed."""
    removed = []
    for path in [*root().glob(f"{PREFIX}*"), *root().glob(f".{PREFIX}*")]:
        try:
            state = path.lstat()
            being_made = path.name.startswith(".") and time.time() - state.st_mtime < _BUILDING_S
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or being_made or in_use(path):
                continue
        except OSError:
            continue
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
    return removed


def in_use(path: Path) -> bool:
    """Whether a living process holds a lock in a job directory."""
    return any(is_held(file) for file in path.glob("*.lock"))
