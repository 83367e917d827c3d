"""The schema of a whole run, as YAML spells it. Imports the registries of every component.

Sections: name, seed, data, model, optimizer, exchange, regularizers, train, run.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from configs.base import Config
from gossip import METHODS
from regularizers import REGULARIZERS
from trainers.data import DATA
from trainers.models import MODELS
from trainers.optimizers import OPTIMIZERS
from trainers.precision import PrecisionName
from trainers.profiling import ProfileOptions


class Train(Config):
    """How long and how to train.

    Attributes:
        steps: local steps of each worker; either these or `epochs` have to be given.
        epochs: passes of each worker over what it draws from; either these or `steps` have to be given.
        stop: `each`: every worker makes its own number of steps; `total`: until the job has made workers x steps
            altogether, so that fast workers carry slow ones.
        precision: of the forward and backward pass; weights stay float32. `fp32` is the slowest on a GPU: `tf32` rounds
            the factors of products only, `bf16` and `fp16` nearly everything.
        compile: compile the model with torch.compile; `reduce-overhead` replays CUDA graphs as well, for models whose
            kernels are small, one batch a step.
        channels_last: lay images out with their channels last, as fast convolutions on GPUs want them.
        profile: which steps to trace, into the folder profile/ of the run directory; null for none.
        grad_accum_steps: batches whose gradients are averaged into one step.
        sampling: `independent`: every worker draws from the whole set; `sharded`: each epoch split among them.
        threads: compute threads of a worker on the CPU.
        clip: largest norm of the gradient, or none.
        clip_layers: largest norm of the gradient of each layer, its weight and bias together, or none; before `clip`.
        exchange_regularizer_state: whether moving averages of regularizers are exchanged like weights; else each worker
            keeps its own. Parameters that a regularizer learns always travel.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    stop: Literal["each", "total"] = "each"
    precision: PrecisionName = "fp32"
    compile: bool | Literal["reduce-overhead"] = False
    channels_last: bool = False
    profile: ProfileOptions | None = None
    grad_accum_steps: int = Field(default=1, ge=1)
    sampling: Literal["independent", "sharded"] = "independent"
    threads: int = Field(default=1, ge=1)
    clip: float | None = Field(default=None, gt=0)
    clip_layers: float | None = Field(default=None, gt=0)
    exchange_regularizer_state: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"got steps={self.steps} and epochs={self.epochs}, expected exactly one, such as steps: 1000 and"
                " epochs: null"
            )
        return self

    @model_validator(mode="after")
    def _graphs_take_one_batch(self) -> Self:
        if self.compile == "reduce-overhead" and self.grad_accum_steps > 1:
            raise ValueError(
                f"got compile=reduce-overhead and grad_accum_steps={self.grad_accum_steps}, expected 1: a graph that is"
                " replayed overwrites the gradients of the batch before; use compile: true"
            )
        return self


class RunOptions(Config):
    """Where a run writes and how often it looks at itself.

    Attributes:
        dir: the run directory; runs/NAME by default.
        workers: how many to start, unless the command line says so.
        device: `auto`: each worker of a host has one of its GPUs, or the CPU where there are none; or `cpu`.
        workers_per_device: how many workers share each GPU.
        max_workers: seats: how many can be alive at once.
        restarts: how often in a row a worker that died is started again; one that has lived for a minute is forgiven.
        grace_s: how long workers may take to save and leave after SIGTERM, SIGUSR2 or Ctrl-C before they are killed.
        log_every: steps between lines of metrics.
        checkpoint_every: steps between checkpoints of a worker; 0 for the end only.
        eval_every: steps between evaluations of the consensus model; 0 for the end only.
        tensorboard: whether to write the tensorboard view of the metrics.
    """

    dir: str | None = None
    workers: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu"] = "auto"
    workers_per_device: int = Field(default=1, ge=1)
    max_workers: int = Field(default=64, ge=1, le=1024)
    restarts: int = Field(default=3, ge=0)
    grace_s: float = Field(default=30.0, gt=0)
    log_every: int = Field(default=50, ge=1)
    checkpoint_every: int = Field(default=0, ge=0)
    eval_every: int = Field(default=0, ge=0)
    tensorboard: bool = True


class Run(Config):
    """Everything about one run.

    Attributes:
        seed: of all that is random: the first weights, the samples that each worker draws, whom it sends to and when.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DATA.field()  # type: ignore[valid-type]
    model: MODELS.field()  # type: ignore[valid-type]
    optimizer: OPTIMIZERS.field()  # type: ignore[valid-type]
    exchange: METHODS.field()  # type: ignore[valid-type]
    regularizers: list[REGULARIZERS.field()] = Field(default_factory=list)  # type: ignore[valid-type]
    train: Train
    run: RunOptions = RunOptions()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.train.stop == "total" and METHODS.get(self.exchange.method).variant(self.exchange).collective:
            raise ValueError(
                f"got train.stop total with exchange.method {self.exchange.method}, expected each: its workers step"
                " together"
            )
        if self.run.workers > self.run.max_workers:
            raise ValueError(
                f"got {self.run.workers} workers, expected at most run.max_workers = {self.run.max_workers}; raise it"
            )
        return self


def options(config: Any, key: str = "name") -> dict[str, Any]:
    """A component's options as keyword arguments, without the key that names it."""
    return {name: value for name, value in dict(config).items() if name != key}
