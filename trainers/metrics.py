"""Metrics as JSON lines, the truth, and as tensorboard scalars, a view of it. Imports nothing of this project."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Metrics:
    """Appends lines of figures to one file.

    Args:
        path: of the JSON-lines file; a resumed run goes on in it.
        tensorboard: folder of the tensorboard view, or None for no view.
    """

    def __init__(self, path: Path, tensorboard: Path | None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._tensorboard = tensorboard
        self._writer: SummaryWriter | None = None

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """One line: the step, the time in seconds since 1970, and the figures; numbers also go to tensorboard."""
        line = {"step": step, "time": time.time(), **figures}
        os.write(self._file, (json.dumps(line) + "\n").encode())  # one append: lines of two writers never mix
        if self._tensorboard is None:
            return
        if self._writer is None:  # imported at the first line: it takes longer than torch's other parts together
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._tensorboard), flush_secs=10)
        for name, value in flatten(figures).items():
            self._writer.add_scalar(name, value, step, walltime=line["time"])

    def close(self) -> None:
        """Flush both."""
        os.close(self._file)
        if self._writer is not None:
            self._writer.close()


def flatten(figures: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested dictionaries under names joined by `/`; everything else is left out."""
    flat: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + name] = float(value)
    return flat
