"""Everything that can be wrong is found here, before anything is written or started. Imports trainers and gossip."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

import gossip
from configs import Custom, Loaded
from gossip import layout, open_files
from gossip.directory import no_room, remove_stale, root
from gossip.flat import Flat
from gossip.methods import Exchange
from gossip.server import memory
from gossip.server.protocol import Serving, check_address
from launch.arguments import NOT_RESUMED
from launch.settings import blame, customs, run_folder
from trainers import data as datasets
from trainers import models, regularization
from trainers.local import LocalTrainer, steps_of
from trainers.optimizers import OptimizerConfig
from trainers.run_directory import RunDirectory
from trainers.schedules import check_warmup
from trainers.schema import Run, options

_PUBLICATIONS = 2
_PAGE = 4096


@dataclass(frozen=True)
class Plan:
    """A job that can be started.

    Attributes:
        loaded: the configuration with its text.
        directory: of the run, checked but not made.
        resume: whether the workers go on from checkpoints.
        method: of the exchange.
        seats: how many members may be alive at once.
        parameters: elements of a weight vector.
        steps: local steps of a worker.
        samples: in one local step.
        shared_memory: bytes the job takes in shared memory.
        serving: where the central variable lives, of methods that need a server.
        detached: whether its workers go on to the end when their launcher dies.
    """

    loaded: Loaded[Run]
    directory: RunDirectory
    resume: bool
    method: type[Exchange]
    seats: int
    parameters: int
    steps: int
    samples: int
    shared_memory: int
    serving: Serving | None
    detached: bool = False

    @property
    def run(self) -> Run:
        """The configuration."""
        return self.loaded.config

    @property
    def workers(self) -> int:
        """M."""
        return self.run.run.workers

    def describe(self) -> str:
        """What would be started, for a person."""
        return (
            f"{self.run.name}: {self.workers} workers, {self.run.exchange.method}, {self.parameters:,} parameters,"
            f" {self.steps:,} steps each, {self.shared_memory:,} bytes of shared memory, into {self.directory.path}"
        )


def make_plan(
    loaded: Loaded[Run], resume: str, workers: int | None = None, detached: bool = False, here: int | None = None
) -> Plan:
    """Check a job by building what its workers will build.

    Args:
        resume: `never`, `auto`, or the directory of an earlier run.
        workers: how many are to be started; those the job is founded with by default.
        detached: see Plan.
        here: how many there will be on this host, if not those the job is founded with.

    Raises:
        ValueError: data that cannot be read, a model that does not fit it, options that are out of range, shared
            memory that is too small, too few files that may be open, or a run directory that is taken.
    """
    run = loaded.config
    directory = RunDirectory(run_folder(run, resume))
    if resume not in (NOT_RESUMED, "auto") and not directory.resolved.is_file():
        raise ValueError(f"--resume: got {resume}, expected auto, never, or the directory of an earlier run")
    directory.check(resume != NOT_RESUMED)
    method = gossip.METHODS.get(run.exchange.method)
    with blame(loaded, "exchange"):
        exchange = method.Options.of(**options(run.exchange, "method"))
        exchange.check(run.run.workers)
    method = method.variant(exchange)
    with blame(loaded, "data"):
        data = datasets.build(run.data)
        batches = data.batches(rank=0, world_size=run.run.workers, seed=run.seed, sampling=run.train.sampling)
    with blame(loaded, "model"):
        model = models.build(run.model, data.shape, data.classes)
        if isinstance(run.model, Custom) and (run.run.device == "cpu" or not torch.accelerator.is_available()):
            models.check_logits(model, data.shape, data.classes)
    with blame(loaded, "regularizers" if run.regularizers else "model"):
        regularizers = regularization.build(run, model, data)
        flat = Flat(regularization.travelling(run, model, regularizers))
    with blame(loaded):
        steps = steps_of(run, batches)
        if run.regularizers or any(customs(run)):  # ours are in order once their options are, and take a second to make
            LocalTrainer(run, model, model, batches, torch.device("cpu"), regularizers)
    with blame(loaded, "optimizer"):
        if isinstance(run.optimizer, OptimizerConfig):
            check_warmup(run.optimizer.schedule, steps)
    data.close()
    seats = run.run.max_workers
    vector = flat.dimension * flat.vector.element_size()
    serving = exchange.serving
    parts = {None: 0, "process": 1, "sharded": run.run.workers}[serving]
    slots = getattr(exchange, "slots", 0)
    needed = shared_memory(workers or run.run.workers, seats, vector, slots, parts)
    _check_room(needed)
    open_files.check(here or run.run.workers, slots)
    if serving:
        check_address(root(), run.run.workers)
    samples = batches.batch_size * run.train.grad_accum_steps
    going_on, dimension = resume != NOT_RESUMED, flat.dimension
    return Plan(loaded, directory, going_on, method, seats, dimension, steps, samples, needed, serving, detached)


def shared_memory(workers: int, seats: int, vector: int, slots: int, parts: int = 0) -> int:
    """Bytes a job takes: control words, slots and two publications a worker, and the initial weights of gossip.

    Args:
        vector: bytes of a weight vector.
        slots: a worker's.
        parts: which the central variable is kept in; 0 where there is none. Each worker then has a desk, to hand
            vectors to whoever serves it.
    """
    words = _pages(layout.size(seats) * layout.WORD)
    a_worker = words + (slots + bool(parts)) * _pages(vector) + _pages(_PUBLICATIONS * vector)
    center = parts * _pages(memory.size(-(-vector // parts), seats)) if parts else 0
    return workers * a_worker + center + (_pages(vector) if slots else 0) + 2 * _PAGE


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _check_room(needed: int) -> None:
    where = root()
    if not where.is_dir():
        raise ValueError(f"got shared-memory directory {where}, which does not exist; set GOSGD_SHM_DIR")
    if needed > _free(where):
        remove_stale()
    if needed > _free(where):
        raise ValueError(no_room(where, needed))


def _free(where: Path) -> int:
    state = os.statvfs(where)
    return int(state.f_bavail * state.f_frsize)
