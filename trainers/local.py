"""One worker's local training: model, data, loss, optimizer; one call of `step` is one local step of SGD.

Imports the component packages; knows nothing of other workers but that there are some.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from configs.base import Custom
from gossip.job import Job
from gossip.layout import Member
from regularizers import Regularizer
from trainers import models, optimizers, schedules
from trainers.data.base import Batches, Data
from trainers.evaluation import counters, set_counters
from trainers.generators import restore_all, seed_all, state_of_all
from trainers.optimizers import OptimizerConfig
from trainers.precision import Precision
from trainers.profiling import Profile
from trainers.schedules import ConstantConfig, LearningRate
from trainers.schema import Run

_log = logging.getLogger("gosgd")


class LocalTrainer:
    """The local part of a training step.

    Args:
        run: what to train and how.
        model: as the exchange wrapped it.
        bare: the model itself, whose parameters are optimised.
        batches: endless.
        device: of model and batches.
        regularizers: of the model; their own parameters are optimised, too.
        profile: names the parts of a step.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        bare: nn.Module,
        batches: Batches,
        device: torch.device,
        regularizers: Sequence[Regularizer] = (),
        profile: Profile | None = None,
    ) -> None:
        self.run = run
        self.profile = Profile() if profile is None else profile
        self.bare = bare
        self.batches = batches
        self.regularizers = list(regularizers)
        learned = [parameter for regularizer in self.regularizers for parameter in regularizer.parameters()]
        self.parameters = [*bare.parameters(), *learned]
        groups: list[dict[str, Any]] = [{"params": list(bare.parameters())}]
        if learned:  # a regularizer's own parameters stay out of weight decay
            groups.append({"params": learned, "weight_decay": 0.0})
        self.optimizer = optimizers.build(run.optimizer, groups)
        self._given = optimizers.options_of(self.optimizer)
        self._wrapped = model
        self.model = compiled(model, run.train.compile)
        self._precision = Precision(run.train.precision, device)
        own = [list(module.parameters(recurse=False)) for module in bare.modules()]
        self._layers = [layer for layer in own if layer]
        self._device = device
        self._accumulate = run.train.grad_accum_steps
        self._seen = 0
        self._loss = torch.zeros((), device=device)
        self._penalties = torch.zeros(len(self.regularizers), device=device)
        self._correct = torch.zeros((), dtype=torch.long, device=device)
        self.steps = steps_of(run, batches)
        wanted = run.optimizer.schedule if isinstance(run.optimizer, OptimizerConfig) else ConstantConfig()
        self.learning_rate = LearningRate(self.optimizer, schedules.build(wanted), self.steps)

    def step(self, step: int) -> None:
        """One update of the weights: forward, backward, optimizer.

        Args:
            step: local steps behind the weights; sets the learning rate.
        """
        self.profile.begin()
        self.learning_rate.set(step)
        self.optimizer.zero_grad(set_to_none=True)
        for turn in range(self._accumulate):
            with self.profile.range("data"):
                inputs, targets = next(self.batches)
            last = turn == self._accumulate - 1
            with self._apart() if not last else contextlib.nullcontext():
                self._accumulate_gradient(inputs, targets)
        with self.profile.range("optimizer"):
            self._update()

    def _update(self) -> None:
        if self.run.train.clip is not None or self.run.train.clip_layers is not None:
            self._precision.unscale(self.optimizer)
        if self.run.train.clip_layers is not None:
            for layer in self._layers:
                nn.utils.clip_grad_norm_(layer, self.run.train.clip_layers)
        if self.run.train.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.run.train.clip)
        self._precision.step(self.optimizer)

    def _apart(self) -> contextlib.AbstractContextManager[None]:
        """Gradients of all but the last accumulated batch need not meet."""
        if isinstance(self._wrapped, DistributedDataParallel):
            return self._wrapped.no_sync()
        return contextlib.nullcontext()

    def _accumulate_gradient(self, inputs: Tensor, targets: Tensor) -> None:
        if self.run.train.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with self.profile.range("forward"):
            with self._precision.forward():
                logits = self.model(inputs)
                if not isinstance(logits, Tensor):
                    raise ValueError(
                        f"got a {type(logits).__name__} from the model in training, expected logits [{len(targets)},"
                        " classes]: a tensor"
                    )
                loss = functional.cross_entropy(logits, targets)
            penalties = [regularizer(targets) for regularizer in self.regularizers]
            total = sum(penalties, start=loss)
            total = total / self._accumulate if self._accumulate > 1 else total
        with self.profile.range("backward"):
            self._precision.backward(total)
        with torch.no_grad():
            self._loss += loss.detach() * len(targets)
            for at, penalty in enumerate(penalties):
                self._penalties[at] += penalty.detach() * len(targets)
            self._correct += (logits.argmax(1) == targets).sum()
        self._seen += len(targets)

    def figures(self) -> dict[str, Any]:
        """Mean loss and accuracy on the training batches since the last call, and how many samples those were.

        With regularizers also what each adds to the loss, by its name.
        """
        seen = max(1, self._seen)
        figures: dict[str, Any] = {"loss": float(self._loss) / seen, "accuracy": int(self._correct) / seen}
        figures["samples"] = self._seen
        if self.regularizers:
            names = [config.name for config in self.run.regularizers]
            names = [name if names.count(name) == 1 else f"{name}{at}" for at, name in enumerate(names)]
            values = (self._penalties / seen).tolist()
            figures["regularizers"] = dict(zip(names, values, strict=True))
        self._loss.zero_()
        self._penalties.zero_()
        self._correct.zero_()
        self._seen = 0
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, regularizers, the model's counters, data position and generators."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "given": self._given,
            "regularizers": [regularizer.state_dict() for regularizer in self.regularizers],
            "counters": counters(self.bare),
            "batches": dict(self.batches.state_dict()),
            "scaler": self._precision.state_dict(),
        } | state_of_all(self._device)

    def load_state_dict(self, state: dict[str, Any], optimizer: bool = True, own: bool = True) -> None:
        """Go on from what `state_dict` gave.

        Args:
            optimizer: whether its state is of the same kind of optimizer; of another kind it starts empty.
            own: whether this worker gave it; from another's it does not take the generators, whose numbers that one
                goes on to draw.
        """
        saved = state["optimizer"]
        if not optimizer or not optimizers.restore(self.optimizer, saved, state.get("given", self._given), self._given):
            _log.warning("the checkpoint is of another optimizer: its state starts empty")
        self._restore_regularizers(state["regularizers"])
        set_counters(self.bare, state.get("counters", {}))
        if state["batches"]["steps_per_epoch"] == self.batches.state_dict()["steps_per_epoch"]:
            self.batches.load_state_dict(state["batches"])
        else:
            _log.info("epochs have another length now (data, batch size or number of workers): their order starts anew")
        if own:
            restore_all(state, self._device)
        self._precision.load_state_dict(state.get("scaler", {}))

    def _restore_regularizers(self, saved: list[dict[str, Any]]) -> None:
        for at, regularizer in enumerate(self.regularizers):
            before = copy.deepcopy(regularizer.state_dict())
            try:
                regularizer.load_state_dict(saved[at])
            except (IndexError, KeyError, TypeError, ValueError, RuntimeError):
                regularizer.load_state_dict(before)  # it may have taken a part
                _log.warning("the checkpoint has no state of regularizer %d that fits: it starts anew", at)


def placed(run: Run, job: Job) -> tuple[Job, torch.device]:
    """Where a worker computes, and its place in the job, which then says how devices are shared.

    Raises:
        ValueError: there are not enough devices.
    """
    job = dataclasses.replace(job, sharing=run.run.workers_per_device)
    device = job.device() if run.run.device == "auto" else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(run.train.threads)
    else:
        torch.accelerator.set_device_index(device)
    return job, device


def initial_model(run: Run, data: Data, device: torch.device) -> nn.Module:
    """The run's model with the weights that every worker starts from.

    Raises:
        ValueError: it cannot be built, or one of the user's own does not take the data or gives no logits.
    """
    torch.manual_seed(run.seed)
    model = models.build(run.model, data.shape, data.classes).to(device)
    if isinstance(run.model, Custom):
        models.check_logits(model, data.shape, data.classes)  # layers without a shape get theirs here
    return in_channels_last(model) if run.train.channels_last else model


def in_channels_last(model: nn.Module) -> nn.Module:
    """The model with its convolutions' weights laid out with their channels last."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.ndim == 4:
                tensor.data = tensor.contiguous(memory_format=torch.channels_last)
    return model


def compiled(model: nn.Module, how: bool | Literal["reduce-overhead"]) -> Any:
    """The model compiled, or as it is."""
    if not how:
        return model
    return torch.compile(model, mode=how if isinstance(how, str) else None)


def own_batches(run: Run, data: Data, member: Member, workers: int) -> Batches:
    """The training batches of one worker; from here on the process's generators are its own, too."""
    seat, generation = member
    seed_all(hash((run.seed, seat, generation)) & 0x7FFFFFFF)
    return data.batches(
        rank=seat, world_size=workers, seed=run.seed, incarnation=generation, sampling=run.train.sampling
    )


def steps_of(run: Run, batches: Batches) -> int:
    """Local steps of one worker, from `train.steps` or `train.epochs`."""
    if run.train.steps is not None:
        return run.train.steps
    assert run.train.epochs is not None
    return max(1, round(run.train.epochs * batches.steps_per_epoch / run.train.grad_accum_steps))
