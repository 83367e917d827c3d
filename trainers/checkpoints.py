"""Checkpoints of one worker: atomic, newest few kept, read without executing anything. Imports trainers.files.

They hold no mail and no mass: a resumed job shares the mass out anew before anyone steps.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch

from trainers.files import write_atomically

_log = logging.getLogger("gosgd")
_NAME = re.compile(r"step-(\d+)\.pt")
KEPT = 2


class Checkpoints:
    """The checkpoints of a run, of which this worker writes its own.

    Args:
        folder: `checkpoints/` of the run directory.
        rank: this worker.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._own = folder / f"worker-{rank}"

    def save(self, step: int, state: dict[str, Any]) -> bool:
        """Write the state after `step` and forget all but the newest few.

        Returns:
            False when the disk refused it: training goes on, the earlier checkpoints stay.
        """
        try:
            write_atomically(self._own / f"step-{step:09d}.pt", lambda path: torch.save(state, path))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            _log.warning("checkpoint of step %d not written, training goes on: %s", step, error)
            return False
        for _, path in _found(self._own)[:-KEPT]:
            path.unlink(missing_ok=True)
        return True

    def newest(self, together: bool = False) -> dict[str, Any] | None:
        """This worker's newest checkpoint that is whole; a damaged one is named and skipped.

        A worker that never wrote one (the job has more workers now) takes the lowest other worker's.

        Args:
            together: the workers must all go on from the same step: the latest that any of them has saved.
        """
        others = sorted(self._folder.glob("worker-*"), key=lambda path: int(path.name.partition("-")[2]))
        files = [file for folder in [self._own, *others] for file in reversed(_found(folder))]
        if together:
            files.sort(key=lambda file: -file[0])  # of equal steps, one's own stays first
        for _, path in files:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                if isinstance(state, dict) and "vector" in state:
                    return state
                raise ValueError("it holds something else")
            except Exception as error:  # whatever random bytes make the reader say
                _log.warning("checkpoint %s is damaged and skipped: %s", path, str(error).partition("\n")[0])
        return None


def _found(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1]), path) for match, path in matches if match)
