"""What the launcher and its workers agree on. Imports trainers.schema."""

from __future__ import annotations

from pathlib import Path

from trainers.schema import Run

SUPERVISOR = "GOSGD_SUPERVISOR"
"""Environment variable with the launcher's process id; a worker ends when that process does."""

NOT_RESUMED = "never"
RESUME = "go on from the newest checkpoints of the run directory (auto) or of another one (DIR)"


def run_folder(run: Run, resume: str) -> Path:
    """The run directory: that of `--resume DIR`, else `run.dir`, else runs/NAME."""
    if resume not in (NOT_RESUMED, "auto"):
        return Path(resume)
    return Path(run.run.dir or Path("runs") / run.name)
