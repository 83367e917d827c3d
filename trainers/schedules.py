"""Learning-rate schedules as pure functions of the step; may import configs only.

A worker that joins late takes its place in the schedule from the step count alone, so nothing here remembers a step.
A row of `SCHEDULES` is a function `(config, step, total_steps) -> decay` in [0, 1]; `build` adds the warm-up.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator
from torch.optim import Optimizer

from configs.base import Config, Custom, Field, Registry, check_call, import_callable

Schedule = Callable[[int, int], float]
SCHEDULES: Registry[Callable[[Any, int, int], float]] = Registry("schedule")


def _is_moment(value: int | float) -> int | float:
    if (value >= 1) if isinstance(value, int) else (0 < value < 1):
        return value
    raise ValueError(f"got {value}, expected a whole number of steps from 1 or a fraction of the run between 0 and 1")


Moment = Annotated[int | float, AfterValidator(_is_moment)]


def moment_step(moment: int | float, total_steps: int) -> int:
    """The step that a moment names: itself if whole, else that fraction of the run, at least 1."""
    return moment if isinstance(moment, int) else max(1, round(moment * total_steps))


class ScheduleConfig(Config):
    """Options of every schedule.

    Args:
        warmup: steps before the full rate, which is approached as (step + 1) / (warmup + 1).
    """

    name: str
    warmup: int = Field(0, ge=0)


class ConstantConfig(ScheduleConfig):
    """No decay."""

    name: Literal["constant"] = "constant"


class MultistepConfig(ScheduleConfig):
    """Decay by `gamma` at each of the `milestones`.

    Args:
        milestones: steps, or fractions of the run where they are below 1.
        gamma: factor on the learning rate at each of them.
    """

    name: Literal["multistep"] = "multistep"
    milestones: list[Moment] = Field([0.5, 0.75], min_length=1)
    gamma: float = Field(0.1, gt=0, le=1)


class ExponentialConfig(ScheduleConfig):
    """Decay by `gamma` every `every` steps.

    Args:
        gamma: factor on the learning rate each time.
        every: steps from one time to the next, or a fraction of the run where it is below 1.
    """

    name: Literal["exponential"] = "exponential"
    gamma: float = Field(0.97, gt=0, le=1)
    every: Moment = 0.01


class CosineConfig(ScheduleConfig):
    """Decay along half a cosine from the end of the warm-up to `floor` at the end of the run.

    The floor is above 0 because `train.stop: total` lets a fast worker take more steps than its share.

    Args:
        floor: factor on the learning rate at the end of the run and after it.
    """

    name: Literal["cosine"] = "cosine"
    floor: float = Field(0.01, gt=0, le=1)


@SCHEDULES.register(ConstantConfig)
def constant(config: ConstantConfig, step: int, total_steps: int) -> float:
    """1."""
    return 1.0


@SCHEDULES.register(MultistepConfig)
def multistep(config: MultistepConfig, step: int, total_steps: int) -> float:
    """gamma ** (number of milestones at or before the step)."""
    passed = sum(step >= moment_step(milestone, total_steps) for milestone in config.milestones)
    return config.gamma**passed


@SCHEDULES.register(ExponentialConfig)
def exponential(config: ExponentialConfig, step: int, total_steps: int) -> float:
    """gamma ** ⌊step / every⌋."""
    decay: float = config.gamma ** (step // moment_step(config.every, total_steps))
    return decay


@SCHEDULES.register(CosineConfig)
def cosine(config: CosineConfig, step: int, total_steps: int) -> float:
    """floor + (1 − floor) · (1 + cos πx) / 2, x the share of the steps after the warm-up that is done."""
    share = (step - config.warmup) / max(1, total_steps - config.warmup)
    return config.floor + (1 - config.floor) * (1 + math.cos(math.pi * min(1.0, max(0.0, share)))) / 2


if TYPE_CHECKING:
    AnySchedule = ScheduleConfig | Custom
else:
    AnySchedule = SCHEDULES.field()


def build(config: ScheduleConfig | Custom) -> Schedule:
    """The schedule that `config` names: `factor(step, total_steps)`, the multiplier of the learning rate.

    Args:
        config: options of a registered schedule, whose factor is in (0, 1], or of the user's own: its function is
            called with step, total_steps and the options.

    Raises:
        ValueError: the user's function cannot be found or called.
    """
    if not isinstance(config, ScheduleConfig):
        return _custom(config)
    decay = SCHEDULES.get(config.name)

    def factor(step: int, total_steps: int) -> float:
        warm = min(1.0, (step + 1) / (config.warmup + 1))
        return max(warm * decay(config, step, total_steps), sys.float_info.min)

    return factor


def check_warmup(config: ScheduleConfig | Custom, total_steps: int) -> None:
    """Check that the full rate is reached within a run.

    Raises:
        ValueError: the warm-up takes longer.
    """
    if isinstance(config, ScheduleConfig) and config.warmup > total_steps:
        raise ValueError(
            f"schedule.warmup: got {config.warmup:,} steps in a run of {total_steps:,} of a worker, which never comes"
            " to the full rate; expected fewer, or more steps to train"
        )


def _custom(config: Custom) -> Schedule:
    path = config.model_dump()[SCHEDULES.key]
    function = import_callable(SCHEDULES.kind, path, "a function of step, total_steps")
    options = config.options(SCHEDULES.key)
    check_call(SCHEDULES.kind, path, function, 0, 1, **options)

    def factor(step: int, total_steps: int) -> float:
        """Raises ValueError where the function gives no factor."""
        found = function(step, total_steps, **options)
        try:
            value = float(found)
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value < math.inf:
            raise ValueError(f"schedule {path!r} gave {found!r} at step {step}, expected a finite number from 0")
        return value

    return factor


class LearningRate:
    """Sets the learning rate of every parameter group to its base rate times the schedule's factor.

    The base rate is the group's `initial_lr`, taken from `lr` the first time and then part of the optimizer's state.

    Args:
        optimizer: whose groups are set; nothing else is held.
        schedule: from `build`.
        total_steps: steps of this worker's run.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, total_steps: int) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self.total_steps = total_steps

    def set(self, step: int) -> float:
        """Sets the rate for `step` (counted from 0), writing only what changes; returns the factor."""
        factor = self.schedule(step, self.total_steps)
        for group in self.optimizer.param_groups:
            rate = group.setdefault("initial_lr", group["lr"]) * factor
            if group["lr"] != rate:
                group["lr"] = rate
        return factor
