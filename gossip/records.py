"""Records in a store that authenticates nobody: signed, and bound to one job. Imports torch.

torch.distributed's TCPStore answers whoever reaches its port. What a worker reads there decides which directory it maps
and, across hosts, which addresses it talks to; so each record carries an HMAC under a secret that only the job's user
has. See docs/security.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import Store
from torch.distributed import DistNetworkError, DistStoreError

SECRET = "GOSGD_SECRET"
"""Environment variable with the secret that a job's workers share."""

_SHORTEST = 16
_FORMAT = b"gosgd record 1"
_POLL_S = 0.05
_REFUSED_S = 5.0
"""How long a record with a wrong signature may stand before nobody is expected to write the right one over it."""

_log = logging.getLogger("gosgd")


def sign(key: bytes, name: str, value: Any) -> bytes:
    """A record: HMAC-SHA256(key, format, name, value), then the value as canonical JSON."""
    payload = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return _digest(key, name, payload) + b"\n" + payload


def verify(key: bytes, name: str, record: bytes) -> Any:
    """The value of a record.

    Raises:
        ValueError: it was not signed with this key and for this name.
    """
    digest, _, payload = record.partition(b"\n")
    if not hmac.compare_digest(digest, _digest(key, name, payload)):
        raise ValueError("got a record with a wrong signature, expected one of this job")
    return json.loads(payload)


def _digest(key: bytes, name: str, payload: bytes) -> bytes:
    parts = [_FORMAT, name.encode(), payload]
    # Lengths go in as well: otherwise the end of a name could pass for the beginning of a value.
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new(key, message, hashlib.sha256).hexdigest().encode()


class Records:
    """Signed records of one job.

    Args:
        store: where they lie; others may write to it as well.
        key: of this job, see `job_key`.
    """

    def __init__(self, store: Store, key: bytes) -> None:
        self._store, self._key = store, key

    def put(self, name: str, value: Any) -> None:
        """Write a record; `value` is anything that JSON can hold."""
        self._store.set(name, sign(self._key, name, value).decode())

    def get(self, name: str, timeout_s: float) -> Any:
        """Wait for a record; one with a wrong signature is ignored and logged, once.

        Raises:
            TimeoutError: there is none that this job's workers wrote.
        """
        began = time.monotonic()
        deadline = began + timeout_s
        refused: bytes | None = None
        reason = "none was written"
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._store.wait([name], timedelta(seconds=left))
                record = self._store.get(name)
                return verify(self._key, name, record)
            except DistNetworkError:
                reason = "the store cannot be reached any more"
                break
            except DistStoreError:
                break
            except ValueError as error:
                reason = "those found were signed by somebody else"
                if record != refused:
                    _log.warning("store: record %r is ignored: %s", name, error)
                    deadline = min(began + timeout_s, time.monotonic() + _REFUSED_S)
                refused = record
                time.sleep(_POLL_S)
        raise TimeoutError(
            f"store: got no record {name!r} of this job in {time.monotonic() - began:.0f} s, {reason}; expected all"
            f" workers to have the same MASTER_ADDR, MASTER_PORT and {SECRET}, or the same {secret_file()} where that"
            " is not set"
        )


def job_key(environment: Mapping[str, str] = os.environ) -> bytes:
    """The key of the job that the environment describes: HMAC-SHA256(secret, run id, address of the store).

    Raises:
        ValueError: the secret is unusable.
    """
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    job = json.dumps([environment.get(name, "") for name in names])
    return hmac.new(_secret(environment), job.encode(), hashlib.sha256).digest()


def secret_file() -> Path:
    """Where this user's secret lies: gosgd/secret under $XDG_STATE_HOME, or ~/.local/state."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gosgd" / "secret"


def _secret(environment: Mapping[str, str]) -> bytes:
    given = environment.get(SECRET)
    if given is None:
        return _own_secret(secret_file())
    if len(given) < _SHORTEST:
        raise ValueError(
            f"got {SECRET} with {len(given)} characters, expected at least {_SHORTEST};"
            " one can be made with openssl rand -hex 32"
        )
    return given.encode()


def _own_secret(path: Path) -> bytes:
    """Read this user's secret; whoever comes first makes it."""
    try:
        if not path.exists():
            for folder in [folder for folder in (*path.parents[::-1],) if not folder.exists()]:
                folder.mkdir(mode=0o700, exist_ok=True)
            draft = path.with_name(f".secret-{secrets.token_hex(8)}")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)  # whole or not at all, and only the first
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            state, secret = os.fstat(file.fileno()), file.read(1 << 12).strip()
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: no home directory
        raise ValueError(f"got {path}, which cannot be made or read ({error}); set {SECRET} instead") from None
    private = stat.S_ISREG(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o077
    if not private or len(secret) < _SHORTEST:
        raise ValueError(
            f"got {path}, which others can read or which holds no secret, expected a file of this user's with mode 0600"
            f" and {_SHORTEST} characters or more; delete it, a new one will be made, or set {SECRET}"
        )
    return secret.encode()
