"""What a worker's checkpoint holds, and how the worker goes on from one. Imports gossip and trainers' lower modules."""

from __future__ import annotations

import logging
from typing import Any

from gossip.methods import Exchange
from gossip.methods.collective import Collective
from trainers.checkpoint_file import About
from trainers.checkpoints import Checkpoints, common
from trainers.local import LocalTrainer
from trainers.run_directory import RunDirectory, packages
from trainers.schema import Run

_log = logging.getLogger("gosgd")


class Saving:
    """Saves and restores one worker: weights, optimizer, regularizers, method, generators, position in the data.

    Args:
        run: what is trained and how.
        directory: of the run.
        exchange: of this worker.
        local: of this worker.

    Attributes:
        step: of the last checkpoint written; -1 before the first.
        failures: how many could not be written.
    """

    def __init__(self, run: Run, directory: RunDirectory, exchange: Exchange, local: LocalTrainer) -> None:
        self._run, self._directory, self._exchange, self._local = run, directory, exchange, local
        together = exchange.job.workers if exchange.collective else 0
        self._checkpoints = Checkpoints(directory.checkpoints, exchange.me.seat, together)
        self._number = max(0, directory.job())

    @property
    def step(self) -> int:
        """Of the last checkpoint written; -1 before the first."""
        return self._checkpoints.saved

    @property
    def failures(self) -> int:
        """How many checkpoints could not be written."""
        return self._checkpoints.failures

    def save(self) -> bool:
        """Write a checkpoint; False when the disk refused it."""
        exchange, local = self._exchange, self._local
        about = About(
            step=exchange.steps,
            worker=exchange.me.seat,
            workers=exchange.job.workers,
            incarnation=exchange.me.generation,
            job=self._number,
            method=self._run.exchange.method,
            optimizer=self._optimizer,
            fingerprint=exchange.flat.fingerprint,
            dimension=exchange.flat.dimension,
            packages=packages(),
        )
        state = {"vector": exchange.flat.vector, "local": local.state_dict(), "exchange": exchange.state_dict()}
        return self._checkpoints.save(about, state)

    def restore(self, resume: bool) -> int:
        """Go on from a checkpoint, if there is one; all workers of a collective method call this.

        Args:
            resume: whether to look for one; rank 0 decides for all workers of a collective method.

        Returns:
            Local steps behind the weights.

        Raises:
            ValueError: the checkpoint is of another model.
        """
        exchange, local = self._exchange, self._local
        if isinstance(exchange, Collective):
            found = self._common(exchange, resume)
        else:
            found = self._checkpoints.newest() if resume else None
        if found is None:
            if resume:
                _log.info("worker %d: no checkpoint to go on from, starts at step 0", exchange.me.seat)
            return 0
        about, state = found
        if about.fingerprint != exchange.flat.fingerprint:
            raise ValueError(
                f"{self._directory.checkpoints}: got checkpoints of another model (or of regularizers with other"
                " parameters, or another train.channels_last), expected this run's; set another run.dir"
            )
        exchange.flat.vector.copy_(state["vector"])
        own = about.worker == exchange.me.seat
        if own or exchange.collective:
            local.load_state_dict(state["local"], optimizer=about.optimizer == self._optimizer, own=own)
            if about.method == self._run.exchange.method:
                exchange.load_state_dict(state["exchange"])
        _log.info("worker %d: goes on from step %d of worker %d", exchange.me.seat, about.step, about.worker)
        return about.step

    def _common(self, exchange: Collective, resume: bool) -> tuple[About, dict[str, Any]] | None:
        """What rank 0 finds for everybody, so that all go on from the same step."""
        workers, rank = exchange.job.workers, exchange.job.rank
        found = common(self._directory.checkpoints, workers) if resume and rank == 0 else None
        step, *sources = exchange.hear([found.step, *found.sources] if found else [-1] * (1 + workers))
        return None if step < 0 else self._checkpoints.of(step, sources[rank])

    @property
    def _optimizer(self) -> str:
        return getattr(self._run.optimizer, "name", type(self._run.optimizer).__name__)
