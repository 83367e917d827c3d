"""A recorded run once more, in one process. Imports gossip.replay and trainers' lower modules.

With stored updates a run is a product of matrices and nothing is trained. Without them every local step is made again,
worker by worker, with each worker's own data, optimizer state and random numbers, in the recorded order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from configs import load
from gossip.flat import Flat
from gossip.layout import Member
from gossip.methods import METHODS
from gossip.methods.fully_sync import FullySync
from gossip.moves import Array, Merge, Move, Row, State
from gossip.replay import Replay, Trace, read
from trainers import data as datasets
from trainers import regularization
from trainers.data.base import Data
from trainers.generators import restore_all, state_of_all
from trainers.local import LocalTrainer, initial_model, own_batches
from trainers.run_directory import RunDirectory
from trainers.schema import Run


def replay(directory: RunDirectory) -> Replay:
    """Replay a run that was made with `exchange.trace`.

    Raises:
        ValueError: it has no traces, they are not of one whole job, or its local steps cannot be made again.
    """
    if not directory.resolved.is_file():
        raise ValueError(f"got {directory.path} without {directory.resolved.name}, expected a run directory")
    traces = read(directory.traces)
    if all(trace.about["updates"] for trace in traces):
        made = Replay(traces)
        made.run()
        return made
    return _rerun(load(directory.resolved, [], Run).config, traces, directory.path)


def _rerun(run: Run, traces: list[Trace], where: Path) -> Replay:
    if any(trace.events and trace.events[0]["step"] > 0 for trace in traces):
        raise ValueError(f"{where}: got a run that went on from a checkpoint, expected one that began at step 0")
    averages_gradients = issubclass(METHODS.get(run.exchange.method), FullySync)
    clipped = run.train.clip is not None or run.train.clip_layers is not None
    if averages_gradients and (getattr(run.optimizer, "name", None) != "sgd" or clipped):
        raise ValueError(
            f"{where}: got fully_sync with an optimizer other than plain SGD, whose steps on averaged gradients are not"
            " averages of local steps; expected exchange.trace: updates"
        )
    torch.set_num_threads(run.train.threads)
    data = datasets.build(run.data)
    workers = {trace.name: _Worker(run, data, trace) for trace in traces}
    made = _Rerun(traces, _Live(workers), lambda name, step: workers[name].step(step))
    made.run()
    data.close()
    return made


class _Worker:
    """One worker's model, data and generators."""

    def __init__(self, run: Run, data: Data, trace: Trace) -> None:
        device = torch.device("cpu")
        model = initial_model(run, data, device)
        regularizers = regularization.build(run, model, data)
        self.flat = Flat(regularization.travelling(run, model, regularizers))
        member = Member(*trace.about["member"])
        batches = own_batches(run, data, member, trace.about["workers"])
        self._local = LocalTrainer(run, model, model, batches, device, regularizers)
        self._device = device
        self._generators = state_of_all(device)

    def step(self, step: int) -> None:
        restore_all(self._generators, self._device)
        self._local.step(step - 1)
        self._generators = state_of_all(self._device)


class _Live(dict[Row, Array]):
    """The stacked state whose workers' rows are the flat vectors of models, in the precision of the run."""

    def __init__(self, workers: dict[str, _Worker]) -> None:
        super().__init__({name: worker.flat.vector.numpy() for name, worker in workers.items()})

    def __setitem__(self, row: Row, value: Array) -> None:
        if row in self:
            self[row][...] = value
        else:
            super().__setitem__(row, np.array(value, np.float32))


class _Rerun(Replay):
    """A replay that merges with the same kernel as a live worker, so that gossip is repeated to the bit."""

    def apply(self, move: Move, state: State) -> None:
        """Make one move."""
        if isinstance(move, Merge) and state is self.state:
            torch.from_numpy(state[move.target]).lerp_(torch.from_numpy(state[move.source]), move.weight)
        else:
            super().apply(move, state)
