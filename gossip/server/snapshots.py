"""Snapshots of the central variable on disk: what a later job can begin with. Imports configs.files and torch.

One file a shard, `part-I-of-N/version-V.safetensors`, atomic, with a checksum; the newest two are kept. A copy is taken
between two requests, and written by a thread of its own.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from configs.files import write_atomically
from gossip.server.memory import Part
from gossip.server.protocol import cuts
from gossip.server.shard import Shard

_log = logging.getLogger("gosgd")
_FORMAT = "gosgd central variable 1"
_PART = re.compile(r"part-(\d+)-of-(\d+)")
_NAME = re.compile(r"version-(\d+)\.safetensors")
KEPT = 2


class Snapshots:
    """Writes those of one shard.

    Args:
        folder: of the snapshots of all shards.
        index: which shard.
        shards: of how many.
    """

    def __init__(self, folder: Path, index: int, shards: int) -> None:
        self._all, self._index, self._shards = folder, index, shards
        self._folder = folder / f"part-{index}-of-{shards}"
        self._begun = time.monotonic()
        self._version = 0
        self._thread: threading.Thread | None = None

    def newest(self, model: tuple[int, int]) -> Part | None:
        """This shard's slice of the newest w~ that was kept, in whichever parts; None where there is none."""
        begin, end = cuts(model[0], self._shards)[self._index : self._index + 2]
        return newest(self._all, model, begin, end)

    def due(self, shard: Shard, period_s: float) -> list[float]:
        """When the next one is to be taken, on the monotonic clock; empty while there is nothing new."""
        return [self._begun + period_s] if period_s and shard.version != self._version else []

    def look(self, shard: Shard, period_s: float) -> None:
        """Take one if it is due."""
        if any(time.monotonic() >= due for due in self.due(shard, period_s)):
            self.take(shard)

    def take(self, shard: Shard, wait: bool = False) -> None:
        """Copy w~ now and write it in the background; nothing is done while the last one is being written.

        Args:
            shard: whose.
            wait: for both, at the end.
        """
        if self._thread is not None and (wait or not self._thread.is_alive()):
            self._thread.join()
            self._thread = None
        if self._thread is None and shard.version != self._version:
            self._version, memory = shard.version, shard.memory
            part = Part(shard.vector.clone(), memory.weights, shard.version, memory.model)
            self._thread = threading.Thread(target=self._write, args=(part,), name="gosgd-snapshot")
            self._thread.start()
            if wait:
                self._thread.join()
        self._begun = time.monotonic()

    def _write(self, part: Part) -> None:
        about = {
            "format": _FORMAT,
            "version": str(part.version),
            "weights": str(part.weights),
            "model": json.dumps(part.model),
            "checksum": _checksum(part.vector),
        }
        path = self._folder / f"version-{part.version:012d}.safetensors"
        try:
            write_atomically(path, lambda draft: save_file({"vector": part.vector}, str(draft), about))
        except (OSError, SafetensorError) as error:
            _log.warning("central variable: snapshot after %d moves not written: %s", part.version, error)
            return
        # By age, not by version: a job that had to begin with an earlier one counts on from there. This one stays in
        # any case: the clock may have been set back since the others were written.
        others = [other for _, other in _found(self._folder) if other != path]
        for old in sorted(others, key=lambda other: other.stat().st_mtime_ns)[: 1 - KEPT]:
            old.unlink(missing_ok=True)


def newest(folder: Path, model: tuple[int, int], begin: int, end: int) -> Part | None:
    """Elements `begin` to `end` of the newest w~ that was kept, in whichever parts; None where there is none.

    A snapshot that is damaged, or of another model, is named and left out.
    """
    found = [part for shards in _cuttings(folder) if (part := _whole(folder, shards, model)) is not None]
    if not found:
        return None
    best = max(found, key=lambda part: part.version)
    weights = min(max(best.weights - begin, 0), end - begin)
    return Part(best.vector[begin:end].clone(), weights, best.version, model)


def _cuttings(folder: Path) -> set[int]:
    matches = [_PART.fullmatch(path.name) for path in folder.glob("part-*")]
    return {int(match[2]) for match in matches if match}


def _whole(folder: Path, shards: int, model: tuple[int, int]) -> Part | None:
    """Parts of equal number put together: as old as the oldest of them."""
    parts = [next(_readable(folder / f"part-{index}-of-{shards}", model), None) for index in range(shards)]
    there = [part for part in parts if part is not None]
    if len(there) < shards or sum(len(part.vector) for part in there) != model[0]:
        return None
    version = min(part.version for part in there)
    return Part(torch.cat([part.vector for part in there]), sum(part.weights for part in there), version, model)


def _readable(folder: Path, model: tuple[int, int]) -> Iterator[Part]:
    """The newest first."""
    for version, path in _found(folder):
        try:
            with safe_open(path, framework="pt") as file:
                about: dict[str, Any] = file.metadata() or {}
                vector: Tensor = file.get_tensor("vector")
            if about.get("format") != _FORMAT or about.get("checksum") != _checksum(vector):
                raise ValueError("its checksum is wrong")
            if tuple(json.loads(about["model"])) != model:
                raise ValueError("it is of another model")
            if vector.dim() != 1 or int(about["version"]) != version:
                raise ValueError("it holds something else")
            part = Part(vector, int(about["weights"]), version, model)
        except Exception as error:  # whatever random bytes make the reader say
            _log.warning("snapshot %s is skipped: %s", path, str(error).partition("\n")[0])
            continue
        yield part


def _found(folder: Path) -> list[tuple[int, Path]]:
    """(version, path), the newest first."""
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def _checksum(vector: Tensor) -> str:
    return f"{zlib.crc32(vector.contiguous().view(torch.uint8).numpy().data):08x}"
