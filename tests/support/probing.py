"""One of the two processes of `gosgd doctor` that read each other's memory over NIXL, late if wanted."""

from pathlib import Path
from typing import Any

from torch import Tensor

from gossip.directory import JobDirectory
from gossip.job import Job
from launch import doctor_probe


class Prober:
    def __init__(self, folder: Path, rank: int, late: bool) -> None:
        self.folder, self.job = folder, Job(rank, 2, rank, JobDirectory(folder, 2, 2), supervised=True)
        there = folder / f"{1 - rank}.read"

        class Late(doctor_probe.Engine):
            """Begins to read when the other process has read already."""

            def read(self, name: str, here: Tensor, *arguments: Any) -> Any:
                while late and not there.exists():
                    self.arrived()
                return super().read(name, here, *arguments)

        doctor_probe.Engine = Late

    def probe(self) -> dict[str, Any]:
        return doctor_probe.over_nixl(self.job, self.folder)
