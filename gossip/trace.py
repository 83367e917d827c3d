"""What one worker's exchange did, written down as it happens, so that the run can be replayed. Imports gossip.mail.

Two files a member: `S-G.jsonl` with one event a line in the order in which they happened to this member, and
`S-G.vectors` with the weights it was given and, on request, every local update. Both are written through at once,
before a message is announced: whatever a peer can have merged can be found here, even if its sender was killed.
"""

from __future__ import annotations

import json
import logging
import time
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossip.layout import Member
from gossip.mail import Letter

_log = logging.getLogger("gosgd")


def row(member: Member) -> str:
    """The name of a worker's row of the stacked state."""
    return f"{member.seat}.{member.generation}"


def message(letter: Letter) -> str:
    """The name of a message's row."""
    return f"{row(letter.sender)}>{letter.receiver.seat}#{letter.sequence}"


class Recorder:
    """Writes one member's events.

    Args:
        folder: of the traces, made if need be.
        member: whose.
        updates: whether to store every local update as well: D elements a step.
        about: what a replay needs to know of the method.
    """

    def __init__(self, folder: Path, member: Member, updates: bool, about: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{member.seat}-{member.generation}"
        self._lines = (folder / f"{name}.jsonl").open("wb", buffering=0)
        self._vectors = (folder / f"{name}.vectors").open("wb", buffering=0)
        self._updates = updates
        self._broken = False
        self._before: Tensor | None = None
        self._write({"do": "begin", "member": list(member), "updates": updates, **about})

    def place(self, vector: Tensor, step: int) -> None:
        """The weights were set from outside: at the start, or from a published snapshot."""
        self._write({"do": "place", "step": step}, vector)
        self._settle(vector)

    def center(self, vector: Tensor) -> None:
        """The central variable starts somewhere else than with the first worker's weights: a run is resumed."""
        self._write({"do": "center"}, vector)

    def update(self, vector: Tensor, step: int) -> None:
        """A local step has brought the weights to `vector`; it was the `step`-th, counted from 1."""
        assert self._before is not None, "a local step before the start"
        self._write({"do": "update", "step": step}, vector - self._before if self._updates else None)
        self._settle(vector)

    def move(self, do: str, vector: Tensor, **fields: Any) -> None:
        """A move of the stacked state (see gossip.moves) has brought the weights to `vector`.

        Args:
            do: `push`, `merge`, `average`, `elastic`, `fetch`, `flush`, `mix` or `blend`.
            fields: `message` and `weight`; `turn` of a collective move; `at`, which of the moves of the central
                variable this was, for each of its shards; `terms` of a blend, by worker.
        """
        self._write({"do": do, **fields})
        self._settle(vector)

    def end(self, vector: Tensor) -> None:
        """The weights this member ends with, which a replay must arrive at; closes the files."""
        self._write({"do": "end"}, vector)
        self._lines.close()
        self._vectors.close()

    def _settle(self, vector: Tensor) -> None:
        if self._before is None:
            self._before = torch.empty_like(vector)
        if self._updates:
            self._before.copy_(vector)

    def _write(self, event: dict[str, Any], vector: Tensor | None = None) -> None:
        if self._broken:
            return
        try:
            if vector is not None:
                _write_all(self._vectors, vector.detach().cpu().numpy().data.cast("B"))
                event = {**event, "vector": True}
            line = json.dumps({**event, "time": time.time()}, default=repr) + "\n"
            _write_all(self._lines, memoryview(line.encode()))
        except OSError as error:
            self._broken = True
            _log.warning("%s: the trace ends here and cannot be replayed: %s", self._lines.name, error)


def _write_all(file: FileIO, data: memoryview) -> None:
    """Write to an unbuffered file: the system takes 2 GiB at a time at most, and less where the disk is filling up."""
    while data:
        data = data[file.write(data) :]
