"""What every exchange method offers to a training loop, and the start and end all methods share.

Imports gossip's lower modules, configs.base and torch. A method is one file: its options, its `Exchange`, registered
under the name the YAML key `exchange.method` uses.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from configs.base import Config, Registry
from gossip import layout
from gossip.flat import Flat
from gossip.job import Job
from gossip.layout import State
from gossip.mass import share_out
from gossip.onlooker import Onlooker
from gossip.server.protocol import Serving
from gossip.starting import check_models
from gossip.trace import Recorder
from gossip.transports.shared_memory import SharedMemory

METHODS: Registry[type[Exchange]] = Registry("exchange method", key="method")
log = logging.getLogger("gosgd")


class MethodConfig(Config):
    """Options every method has.

    Attributes:
        trace: what to write down for `gosgd replay`: `events` (who sent and merged what, and when), or `updates`
            (every local update as well, D elements a step: for small runs).
    """

    trace: Literal["off", "events", "updates"] = "off"

    @property
    def serving(self) -> Serving | None:
        """Where the central variable lives: in a process of its own, cut up over the workers, or nowhere."""
        return None

    def check(self, workers: int) -> None:
        """Refuse what is wrong for this number of workers only; called before anything is started.

        Raises:
            ValueError: says what.
        """


class Exchange(Onlooker, ABC):
    """One worker's side of an exchange method.

    Args:
        model: moved to its device already; its tensors become views of one vector. Modules behind it in a sequence
            travel with it.
        job: this worker's place; taken from the environment (torchrun, or `gosgd train`) by default.
        seed: of the method's own random choices.
        options: the method's options, see its Config.
    """

    Options: ClassVar[type[MethodConfig]]
    collective: ClassVar[bool] = False
    """Whether the workers meet in collective operations, so that none can go on alone."""
    rejoins: ClassVar[bool] = False
    """Whether a restarted worker gets its weights from its peers rather than from a checkpoint."""

    def __init__(
        self, model: nn.Module | Sequence[nn.Module], *, job: Job | None = None, seed: int = 0, **options: Any
    ) -> None:
        self.options = self.Options.of(**options)
        self.seed = seed
        self.job = Job.from_environment() if job is None else job
        try:
            self.options.check(self.job.workers)
            self.flat = Flat(model)
        except ValueError:
            self.job.abort()
            raise
        first, *self._beside = [model] if isinstance(model, nn.Module) else model
        try:
            self.transport = self._take_seat()
        except (ValueError, OSError):
            if not self.job.supervised:  # others may be in it, one on this very seat
                self.job.directory.let_go()
            raise
        self.steps = 0
        self._done = 0
        self._words = self.transport.words
        self._recorder: Recorder | None = None
        self._closed = False
        founder = self.me.generation == 0 and self.me.seat < self.job.directory.founders
        self.genesis = share_out(self.job.directory.founders)[self.me.seat] if founder else 0
        self._words[layout.GENESIS] = self.genesis

        def start_before_training(module: nn.Module, inputs: Any) -> None:
            """Where the loop does not call `start`, workers must agree on weights before their first local step."""
            if module.training and torch.is_grad_enabled() and self._words[layout.STATE] == State.STARTING:
                self.start()

        # A function, not a method: whoever copies the model must not copy the exchange with it.
        self._first = first.register_forward_pre_hook(start_before_training)

    def _take_seat(self) -> SharedMemory:
        """Take this worker's seat."""
        dimension, dtype = self.flat.dimension, self.flat.vector.dtype
        return SharedMemory(self.job.directory, self.job.rank, dimension, dtype, 0, self.flat.fingerprint)

    @classmethod
    def variant(cls, options: MethodConfig) -> type[Exchange]:
        """The class that works with these options, where a method has more than one."""
        return cls

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in the loop: DDP for `fully_sync`, the model itself for every other method."""
        return model

    def overlap(self, optimizer: Optimizer) -> None:
        """Let messages be copied while the next gradient is computed, if only `optimizer` changes the weights."""

    def record(self, folder: Path, updates: bool) -> None:
        """Write down what happens from the start on, for a replay; to be called before `start`.

        Args:
            folder: of the traces of all workers of this job.
            updates: whether to store every local update as well.

        Raises:
            ValueError: the worker has started, or its weights are of a kind that NumPy, which replays, does not know.
        """
        if self._words[layout.STATE] != State.STARTING:
            raise ValueError(f"got a trace to write from step {self.steps} on, expected `record` before the first step")
        if self.flat.vector.dtype == torch.bfloat16:
            raise ValueError("got a model of bfloat16 to trace, expected float16, float32 or float64: NumPy replays it")
        about = {
            "dimension": self.flat.dimension,
            "dtype": str(self.flat.vector.dtype).removeprefix("torch."),
            "options": self.options.model_dump(),
            "workers": self.job.workers,
        }
        self._recorder = Recorder(folder, self.me, updates, about)

    def start(self, steps: int = 0, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Take part in the job; the first forward pass in training does so unless the loop calls it itself.

        Args:
            steps: local steps the weights have behind them already (after a resume).
            interrupted: asked while waiting for others; the wait ends when it says True.

        Returns:
            Whether the weights were received from a peer, who also told the step count.

        Raises:
            ValueError: another worker runs another model.
        """
        self._resume(steps)
        self._words[layout.STATE] = State.ACTIVE
        self.transport.appear()
        check_models(self.transport)
        self._placed()
        return False

    def _resume(self, steps: int) -> None:
        self.steps = steps
        self._words[layout.STEP] = steps
        if self.me.generation == 0:
            self._words[layout.EARLIER] = steps

    def _placed(self) -> None:
        """The weights that training goes on from are in place."""
        self._first.remove()
        if self._recorder is not None:
            self._recorder.place(self.flat.vector, self.steps)

    def _centered(self, center: Tensor) -> None:
        """Note where the central variable starts, if this worker is the one that tells and it is not at its weights."""
        if self._recorder is not None and self.me == (0, 0) and self.steps:
            self._recorder.center(center)

    def _moved(self, do: str, **fields: Any) -> None:
        """Note that a move of the stacked state has been made to this worker's weights."""
        if self._recorder is not None:
            self._recorder.move(do, self.flat.vector, **fields)

    @abstractmethod
    def step(self) -> None:
        """Exchange after a local step of the optimizer."""

    def count_step(self) -> None:
        """Note one more local step where the others can read it.

        Raises:
            ValueError: after `close`, or the weights are no longer views of the exchange's vector.
        """
        if self._closed:
            raise ValueError("got a step after close(), expected none: this worker has left; build another exchange")
        if self.steps == 0 and self._words[layout.STATE] == State.STARTING:
            self.start()
        self.flat.check()
        self.steps += 1
        self._done += 1
        self._words[layout.STEP] = self.steps
        self._words[layout.DONE] = self._done
        if self._recorder is not None:
            self._recorder.update(self.flat.vector, self.steps)

    def stats(self) -> dict[str, float | None]:
        """Figures for the metrics, since the start unless their name says otherwise."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the weights; no mail and no mass (a resume shares the mass out anew)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: it is of another method.
        """
        if state:
            raise ValueError(
                f"got {sorted(state)} for {type(self).__name__}, expected nothing: it keeps no state; is the checkpoint"
                " another method's?"
            )

    def _expect(self, state: dict[str, Any], key: str) -> None:
        """Refuse a state without what this method's has."""
        if key not in state:
            raise ValueError(
                f"got {sorted(state)} for {type(self).__name__}, expected {key!r} among them; is the checkpoint another"
                " method's?"
            )

    def close(self, timeout_s: float = 60.0, stay: bool = True) -> bool:
        """Leave the job in good order; after a second call nothing happens.

        Args:
            timeout_s: how long to wait for others to take over what this worker holds.
            stay: whether a gossip worker goes on exchanging, without local steps, until the others have made theirs;
                False for one that has to go now. Before the start that one waits for nobody, and its mass is lost.

        Returns:
            True on the one worker whose model now holds the consensus weights w~ of the whole job.
        """
        if self._closed:
            return False
        last = self.leave(timeout_s, stay)
        self.release(last)
        return last

    def leave(self, timeout_s: float = 60.0, stay: bool = True) -> bool:
        """The first half of `close`: after it, whoever gets True can still look at what the others left behind."""
        if self._words[layout.STATE] == State.STARTING:
            self.start()
        self._words[layout.FINISHED] = layout.AT_ITS_END if stay else layout.TAKEN_OUT
        if stay:
            self._stay(timeout_s)
        return self._leave(timeout_s)

    def _stay(self, timeout_s: float) -> None:
        """Be of use to workers that have local steps to make still."""

    def release(self, last: bool) -> None:
        """The second half of `close`: let go of shared memory; the last worker of an unsupervised job removes it."""
        self._closed = True
        if self._recorder is not None:
            self._recorder.end(self.flat.vector)
        self._words[layout.STATE] = State.GONE
        came = all(self.transport.generations()[seat] for seat in self.job.here)
        self.transport.close()
        if last and not self.job.supervised:
            self.job.directory.remove()
        elif self.job.hosts is not None or (came and not self.job.supervised):
            self.job.directory.let_go()  # whoever is last may be on another host, or dead

    @abstractmethod
    def _leave(self, timeout_s: float) -> bool:
        """The method's own end; returns whether this worker's model now holds w~."""


def wait_until(ready: Any, timeout_s: float, pause_s: float = 0.001) -> bool:
    """Ask `ready()` until it is true; False when `timeout_s` seconds passed first."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
