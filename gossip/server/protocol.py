"""What workers and the shards of the central variable say to each other. Imports the standard library only.

A request is one JSON object over a socket in the job directory; the vectors themselves stay in the worker's desk, a
file of shared memory [D] of which each shard reads and writes its own slice. A worker has one request under way at
most, and a request is sent whole or not at all: who dies in the middle of one changes nothing, or everything. Workers
of other hosts send the same objects over TCP, with the desk behind them; see frames.py and stand_in.py.

Requests are numbered. A shard keeps beside w~, in one commit, the number of each seat's last request that it has met: a
worker whose server died asks the next one, and sends its request again only if its move has not been made.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol

Serving = Literal["process", "sharded"]
Loss = Literal["restart", "stop"]

_LONGEST_ADDRESS = 107  # bytes of a Unix socket's path
LONGEST_MESSAGE = 1 << 16
_ANY_JOB = "gosgd-" + "0" * 24
BROUGHT = ("elastic", "flush", "show")
"""Requests that find something in the desk."""
TAKEN = ("elastic", "fetch", "peek")
"""Requests that leave something there."""


class ServerLostError(RuntimeError):
    """The central variable is gone with whoever held it."""


class Line(Protocol):
    """A worker's end of a connection to a shard's server."""

    def send(self, message: dict[str, Any]) -> None:
        """One request, with what the desk holds for it."""

    def poll(self, timeout_s: float) -> bool:
        """Whether something comes within this time: an answer, or the end."""

    def receive(self) -> dict[str, Any]:
        """One answer, after which the desk holds what belongs to it; EOFError or OSError when nobody is there."""

    def close(self) -> None:
        """Hang up."""


def placement(serving: Serving | None, workers: int, supervised: bool) -> Serving | None:
    """Where w~ lives: one worker alone, whom no launcher looks after, serves itself."""
    return "sharded" if serving == "process" and workers == 1 and not supervised else serving


def cuts(dimension: int, shards: int) -> list[int]:
    """The boundaries [0, ..., D] of w~'s slices, as equal as can be."""
    return [dimension * shard // shards for shard in range(shards + 1)]


def address(directory: Path, shard: int) -> str:
    """The socket of a shard."""
    return str(directory / f"center-{shard}.socket")


def check_address(root: Path, shards: int) -> None:
    """Refuse a place for job directories whose path leaves no room for a socket's.

    Raises:
        ValueError: its path is too long.
    """
    length = len(address(root / _ANY_JOB, shards).encode())
    if length > _LONGEST_ADDRESS:
        raise ValueError(
            f"got shared-memory directory {root}, in which sockets would have paths of {length} bytes, expected at most"
            f" {_LONGEST_ADDRESS}; set GOSGD_SHM_DIR to a shorter path"
        )


def check_hosts(serving: Serving | None) -> None:
    """Refuse what cannot be where workers are on several hosts.

    Raises:
        ValueError: w~ is to be cut up.
    """
    if serving == "sharded":
        raise ValueError(
            "got server=sharded with workers on several hosts, expected server=process: there one process keeps w~, on"
            " the host of worker 0"
        )


def make_key(directory: Path, shard: int) -> str:
    """A shard's password, in a file that only this user can read."""
    path, key = _key_file(directory, shard), secrets.token_hex(32)
    draft = path.with_suffix(".draft-key")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)
    draft.rename(path)
    return key


def read_key(directory: Path, shard: int) -> str:
    """A shard's password; its socket appears after it."""
    return _key_file(directory, shard).read_text()


def memory(directory: Path, shard: int) -> Path:
    """The file in which a shard keeps its part of w~."""
    return directory / f"center-{shard}.memory"


def same_key(mine: str, theirs: object) -> bool:
    """Whether somebody knows the password."""
    return isinstance(theirs, str) and hmac.compare_digest(mine.encode(), theirs.encode())


def over(directory: Path) -> Path:
    """The file that says that the job has ended and its central variable is no longer served."""
    return directory / "center.over"


def send(connection: Connection, message: dict[str, Any]) -> None:
    """One message."""
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> dict[str, Any]:
    """One message.

    Raises:
        EOFError: nobody is left at the other end.
        OSError: likewise, or the message is too long.
        ValueError: it is no message.
    """
    return parse(connection.recv_bytes(LONGEST_MESSAGE))


def parse(text: bytes) -> dict[str, Any]:
    """What a message says.

    Raises:
        ValueError: it is no message.
    """
    try:
        message = json.loads(text)
    except RecursionError:  # nothing but brackets
        message = None
    if not isinstance(message, dict):
        raise ValueError(f"got {type(message).__name__}, expected a message")
    return message


def _key_file(directory: Path, shard: int) -> Path:
    return directory / f"center-{shard}.key"
