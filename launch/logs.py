"""Where the processes' output goes: `logs/{worker-K,server}/attempt-N/{stdout,stderr}.log`.

Imports torch's elastic processes.
"""

from __future__ import annotations

from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs


class WorkerLogs(LogsSpecs):
    """Log files of one process's next attempt; a resumed run goes on counting.

    Args:
        folder: of the run's logs.
        name: of the process.
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        attempts = len(list((folder / name).glob("attempt-*")))
        self.folder = folder / name / f"attempt-{attempts}"
        self.folder.mkdir(parents=True)
        self.stderr = self.folder / "stderr.log"

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """The files of the context's only process."""
        return LogsDest(
            stdouts={0: str(self.folder / "stdout.log")},
            stderrs={0: str(self.stderr)},
            error_files={0: str(self.folder / "error.json")},
        )

    @property
    def root_log_dir(self) -> str:
        """The folder of this attempt."""
        return str(self.folder)
