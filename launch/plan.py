"""Everything that can be wrong is found here, before anything is written or started. Imports trainers and gossip."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gossip
from configs import Loaded
from gossip import layout
from gossip.directory import no_room, root
from gossip.flat import Flat
from launch.settings import NOT_RESUMED, run_folder
from trainers import data as datasets
from trainers import models, optimizers
from trainers.local import steps_of
from trainers.run_directory import RunDirectory
from trainers.schema import Run

_PUBLICATIONS = 2
_PAGE = 4096


@dataclass(frozen=True)
class Plan:
    """A job that can be started.

    Attributes:
        loaded: the configuration with its text.
        directory: of the run, checked but not made.
        workers: M.
        seats: how many members may be alive at once.
        parameters: elements of a weight vector.
        steps: local steps of a worker.
        shared_memory: bytes the job takes in shared memory.
        collective: whether its workers can only go on together.
    """

    loaded: Loaded[Run]
    directory: RunDirectory
    workers: int
    seats: int
    parameters: int
    steps: int
    shared_memory: int
    collective: bool

    @property
    def run(self) -> Run:
        """The configuration."""
        return self.loaded.config

    def describe(self) -> str:
        """What would be started, for a person."""
        return (
            f"{self.run.name}: {self.workers} workers, {self.run.exchange.method}, {self.parameters:,} parameters,"
            f" {self.steps:,} steps each, {self.shared_memory / 1e6:,.1f} MB of shared memory,"
            f" into {self.directory.path}"
        )


def make_plan(loaded: Loaded[Run], workers: int | None, resume: str) -> Plan:
    """Check a job by building what its workers will build.

    Raises:
        ValueError: too many workers, data that cannot be read, a model that does not fit it, options that are out of
            range, shared memory that is too small, or a run directory that is taken.
    """
    run = loaded.config
    count = run.run.workers if workers is None else workers
    if not 1 <= count <= run.run.max_workers:
        raise ValueError(
            f"got {count} workers, expected 1 to run.max_workers = {run.run.max_workers}; lower --workers or raise it"
        )
    directory = RunDirectory(run_folder(run, resume))
    directory.check(resume != NOT_RESUMED)
    method = gossip.METHODS.get(run.exchange.method)
    data = datasets.build(run.data)
    batches = data.batches(rank=0, world_size=count, seed=run.seed, sampling=run.train.sampling)
    steps = steps_of(run, batches)
    data.close()
    torch.manual_seed(run.seed)
    model = models.build(run.model, data.shape, data.classes)
    optimizers.build(run.optimizer, model.parameters())
    flat = Flat(model)
    vector = flat.dimension * flat.vector.element_size()
    slots = getattr(run.exchange, "slots", 0)
    seats = min(run.run.max_workers, max(2 * count, count + 8))
    words = -(-layout.size(seats) * layout.WORD // _PAGE) * _PAGE
    needed = count * ((slots + _PUBLICATIONS) * vector + words) + vector
    if needed > _free(root()):
        raise ValueError(no_room(root(), needed))
    collective = bool(method.collective)
    return Plan(loaded, directory, count, seats, flat.dimension, steps, needed, collective)


def _free(where: Path) -> int:
    try:
        state: Any = os.statvfs(where)
    except OSError:
        return 0
    return int(state.f_bavail * state.f_frsize)
