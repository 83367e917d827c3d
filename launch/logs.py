"""Where the processes' output goes: `logs/{worker-K,server}/attempt-N/{stdout,stderr}.log`. Imports nothing."""

from __future__ import annotations

from pathlib import Path


class Logs:
    """Log files of one process's next attempt; a resumed run goes on counting.

    Args:
        folder: of the run's logs.
        name: of the process.
    """

    def __init__(self, folder: Path, name: str) -> None:
        attempts = len(list((folder / name).glob("attempt-*")))
        self.folder = folder / name / f"attempt-{attempts}"
        self.folder.mkdir(parents=True)
        self.stdout = self.folder / "stdout.log"
        self.stderr = self.folder / "stderr.log"
