"""What workers and the benchmark write down for each other in the folder of a job. Imports numpy only.

Files that are mapped, one writer a row: what a killed worker wrote is there all the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_TASK, _PHASES, _STEPS = "task.json", "phases", "steps"
MODEL, DATA = "model.pt", "data.npz"

Steps = npt.NDArray[np.float64]
"""Rows of a worker: when a step ended (seconds of the monotonic clock), its loss, 1; rows of zeros behind."""


@dataclass(frozen=True)
class Task:
    """What a job's workers are to do.

    Attributes:
        module: the engine's, and its variant.
        slowed: how many times as long as the others' a step of the last worker is to take.
        steps: of training, by worker 0 at least. Where workers need not meet it makes `alone`, as many as it can in the
            time that those take who wait for a slow one.
        killed_at: after which of its steps the last worker will be killed; 0 for not at all.
        pairs: how often a loop without exchange and the engine's take turns after training.
        turn: steps of such a turn.
    """

    module: str
    variant: str
    served: bool
    workers: int
    batch_size: int
    learning_rate: float
    period: int
    steps: int
    slowed: float = 1.0
    killed_at: int = 0
    pairs: int = 0
    turn: int = 0

    @property
    def alone(self) -> int:
        """Steps of a worker 0 that waits for nobody."""
        return round(self.steps * self.slowed)

    @property
    def rows(self) -> int:
        """As many steps of a worker are noted at most."""
        return 4 * self.alone

    def write(self, folder: Path) -> None:
        """Leave it in the folder, and the sheets to fill in."""
        (folder / _TASK).write_text(json.dumps(asdict(self)))
        np.zeros((self.workers, 2), np.int64).tofile(folder / _PHASES)
        np.zeros((self.workers, self.rows, 3)).tofile(folder / _STEPS)

    @classmethod
    def read(cls, folder: Path) -> Task:
        """The one that is in a folder."""
        return cls(**json.loads((folder / _TASK).read_text()))


class Sheets:
    """The sheets of a job."""

    def __init__(self, folder: Path, task: Task) -> None:
        self._phases = np.memmap(folder / _PHASES, np.int64, "r+", shape=(task.workers, 2))
        self._steps = np.memmap(folder / _STEPS, np.float64, "r+", shape=(task.workers, task.rows, 3))

    def full(self, rank: int) -> bool:
        """Whether a worker has no row left."""
        return bool(self._phases[rank, 1] == self._steps.shape[1])

    def note(self, rank: int, loss: float) -> None:
        """A worker has made a step."""
        at = self._phases[rank, 1]
        self._steps[rank, at] = time.monotonic(), loss, 1.0
        self._phases[rank, 1] = at + 1

    def made(self, rank: int) -> int:
        """Steps a worker has noted."""
        return int(self._phases[rank, 1])

    def steps(self, rank: int) -> Steps:
        """What a worker noted."""
        noted = np.array(self._steps[rank])
        return noted[noted[:, 2] > 0]

    def reach(self, rank: int, phase: int) -> None:
        """A worker has come to a phase."""
        self._phases[rank, 0] = phase

    def reached(self, phase: int) -> bool:
        """Whether all workers have come to a phase."""
        return bool(self._phases[:, 0].min() >= phase)

    def meet(self, rank: int, phase: int, meanwhile: Callable[[], object] = lambda: time.sleep(0.001)) -> None:
        """Come to a phase, and wait for all others; who waits too long is stopped by the benchmark."""
        self.reach(rank, phase)
        while not self.reached(phase):
            meanwhile()
