"""Metrics as JSON lines, the truth, and as tensorboard scalars, a view of it. Imports configs.files."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.files import append, open_to_append, to_json

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger("gosgd")


class Metrics:
    """Appends lines of figures to one file. A disk that is full costs lines, never the run.

    Args:
        path: of the JSON-lines file; a resumed run goes on in it.
        tensorboard: folder of the tensorboard view, or None for no view.
    """

    def __init__(self, path: Path, tensorboard: Path | None) -> None:
        self._path = path
        self._file: int | None = None
        self._lost = 0
        self._tensorboard = tensorboard
        self._writer: SummaryWriter | None = None

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """One line: the step, the time in seconds since 1970, and the figures; numbers also go to tensorboard.

        Figures that are no finite numbers are null.

        The first line after some that could not be written says how many (`lines_lost`).
        """
        line = {"step": step, "time": time.time(), **figures, **({"lines_lost": self._lost} if self._lost else {})}
        try:
            if self._file is None:
                self._file = open_to_append(self._path)
            append(self._file, f"{to_json(line)}\n".encode())
            self._lost = 0
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                _log.warning("%s: metrics of step %d not written, training goes on: %s", self._path, step, error)
        if self._tensorboard is not None:
            self._view(step, flatten(figures), line["time"])

    def _view(self, step: int, figures: dict[str, float], now: float) -> None:
        try:
            if self._writer is None:  # imported at the first line: it takes longer than torch's other parts together
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._tensorboard), flush_secs=10)
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step, walltime=now)
        except OSError as error:
            _log.warning("%s: the tensorboard view ends at step %d: %s", self._tensorboard, step, error)
            self._tensorboard = None

    def close(self) -> None:
        """Flush both."""
        if self._file is not None:
            os.close(self._file)
        if self._writer is not None and self._tensorboard is not None:
            with contextlib.suppress(OSError):
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
