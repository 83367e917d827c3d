"""Where the processes' output goes: `logs/{worker-K,server}/attempt-N/{stdout,stderr}.log`. Imports nothing."""

from __future__ import annotations

import os
from pathlib import Path


class Logs:
    """Log files of one process's next attempt; a resumed run goes on counting.

    Args:
        folder: of the run's logs.
        name: of the process.

    Attributes:
        stdout, stderr: the files; the null device where none can be made.
    """

    def __init__(self, folder: Path, name: str) -> None:
        numbers = [path.name.removeprefix("attempt-") for path in (folder / name).glob("attempt-*")]
        attempt = max((int(number) for number in numbers if number.isdecimal()), default=-1) + 1  # some may be deleted
        self.folder = folder / name / f"attempt-{attempt}"
        self.stdout = self.folder / "stdout.log"
        self.stderr = self.folder / "stderr.log"
        try:
            self.folder.mkdir(parents=True)
            for path in (self.stdout, self.stderr):
                path.touch()
        except OSError:  # a full disk ends no job
            self.stdout = self.stderr = Path(os.devnull)
