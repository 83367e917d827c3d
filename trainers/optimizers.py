"""Optimizers by name, with torch's fused kernels where there are any, and the user's own; may import configs.

A row of `OPTIMIZERS` is a function `(config, groups) -> torch.optim.Optimizer` on ready parameter groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from configs.base import Config, Custom, Field, Registry, check_call, import_callable
from trainers.schedules import AnySchedule, ConstantConfig

Group = dict[str, Any]
OPTIMIZERS: Registry[Callable[[Any, list[Group]], Optimizer]] = Registry("optimizer")


class OptimizerConfig(Config):
    """Options of every optimizer.

    Args:
        lr: learning rate at the schedule's factor 1.
        weight_decay: factor of the penalty on the parameters' squares.
        decay: what it acts on: `all` parameters, or `weights` only (two dimensions or more: no biases, no gains and
            shifts of a normalization).
        schedule: of the learning rate, a section of its own: `optimizer.schedule`.
    """

    name: str
    lr: float = Field(0.1, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    decay: Literal["all", "weights"] = "all"
    schedule: AnySchedule = ConstantConfig()


class SgdConfig(OptimizerConfig):
    """Options of `sgd`, as in `torch.optim.SGD`.

    Args:
        momentum: factor on the last step's direction, to which the gradient is added.
        nesterov: Nesterov's form, which counts the momentum once more in each step; needs momentum above 0.
    """

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = False

    @field_validator("nesterov")
    @classmethod
    def _needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("got true with momentum 0, expected momentum above 0; set it, to 0.9 for example")
        return nesterov


class AdamConfig(OptimizerConfig):
    """Options of `adam`, as in `torch.optim.Adam`: its weight decay is added to the gradient.

    Args:
        beta1: decay of the moving average of the gradient.
        beta2: decay of the moving average of its square.
        eps: added to the root of the latter, by which the former is divided.
    """

    name: Literal["adam"] = "adam"
    lr: float = Field(1e-3, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)


class AdamWConfig(AdamConfig):
    """Options of `adamw`, as in `torch.optim.AdamW`: its weight decay shrinks the parameters themselves."""

    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: float = Field(0.01, ge=0)


def _fusable(groups: list[Group]) -> bool:
    """Whether torch has fused kernels for all these tensors; torch itself objects at the first step only."""
    tensors = [tensor for group in groups for tensor in group["params"]]
    return all(tensor.is_floating_point() and tensor.device.type in ("cpu", "cuda") for tensor in tensors)


@OPTIMIZERS.register(SgdConfig)
def sgd(config: SgdConfig, groups: list[Group]) -> Optimizer:
    """Stochastic gradient descent with optional (Nesterov) momentum."""
    return SGD(groups, fused=_fusable(groups), lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def _moments(config: AdamConfig) -> dict[str, Any]:
    return {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps}


@OPTIMIZERS.register(AdamConfig)
def adam(config: AdamConfig, groups: list[Group]) -> Optimizer:
    """Adam (Kingma and Ba 2015)."""
    return Adam(groups, fused=_fusable(groups), **_moments(config))


@OPTIMIZERS.register(AdamWConfig)
def adamw(config: AdamWConfig, groups: list[Group]) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019)."""
    return AdamW(groups, fused=_fusable(groups), **_moments(config))


def parameter_groups(
    parameters: Iterable[Tensor] | Iterable[Group], weight_decay: float, decay: Literal["all", "weights"]
) -> list[Group]:
    """Groups of the parameters that train, each with its weight decay; a group that brings its own keeps it.

    Args:
        parameters: tensors, or groups as torch's optimizers take them, such as
            `[{"params": model.parameters()}, {"params": regularizer.parameters(), "weight_decay": 0.0}]`.
        weight_decay: of the groups that bring none.
        decay: `weights` gives tensors of fewer than two dimensions a group without decay.

    Raises:
        ValueError: nothing trains.
    """
    given: list[Any] = list(parameters)
    groups: list[Group] = []
    for entry in given if given and isinstance(given[0], dict) else [{"params": given}]:
        group: Group = dict(entry)
        trained = [tensor for tensor in group.pop("params") if tensor.requires_grad]
        if "weight_decay" in group or decay == "all":
            parts = [(trained, group.get("weight_decay", weight_decay))]
        else:
            weights = [tensor for tensor in trained if tensor.ndim >= 2]
            parts = [(weights, weight_decay), ([tensor for tensor in trained if tensor.ndim < 2], 0.0)]
        groups += [group | {"params": tensors, "weight_decay": factor} for tensors, factor in parts if tensors]
    if not groups:
        raise ValueError("got no parameter that requires a gradient, expected at least one; is the whole model frozen?")
    return groups


def build(config: OptimizerConfig | Custom, parameters: Iterable[Tensor] | Iterable[Group]) -> Optimizer:
    """The optimizer that `config` names, on the parameters that require a gradient.

    Args:
        config: options of a registered optimizer, or of the user's own: its class is called with the parameters as
            given, then the options. The schedule is not applied here, see `trainers.schedules.LearningRate`.
        parameters: tensors or parameter groups.

    Raises:
        ValueError: nothing to train, or the user's class cannot be found or called, or is no torch optimizer, or one
            that needs a closure.
    """
    if isinstance(config, OptimizerConfig):
        groups = parameter_groups(parameters, config.weight_decay, config.decay)
        return _at_rest(OPTIMIZERS.get(config.name)(config, groups))
    return _at_rest(_custom(config, parameters))


def _at_rest(optimizer: Optimizer) -> Optimizer:
    """Give a fused SGD the momentum 0 that it starts from, where it has none.

    torch would make it in the first step, from memory that nobody has written if that step is left out (fp16), and for
    all parameters or none, which fails where some have their first gradient later. From 0 the first step is the same.
    """
    for group in optimizer.param_groups if isinstance(optimizer, SGD) else ():
        if group["fused"] and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _custom(config: Custom, parameters: Iterable[Tensor] | Iterable[Group]) -> Optimizer:
    path = config.model_dump()[OPTIMIZERS.key]
    factory = import_callable(OPTIMIZERS.kind, path)
    options = config.options(OPTIMIZERS.key)
    check_call(OPTIMIZERS.kind, path, factory, parameters, **options)
    optimizer = factory(parameters, **options)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"optimizer {path!r} gave a {type(optimizer).__name__}, expected a torch.optim.Optimizer")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer {path!r} computes the loss of a batch several times a step (`closure`), expected one that takes"
            " the gradients as they are"
        )
    return optimizer


def options_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What each parameter group is told besides its parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _divided(state: dict[str, Any]) -> list[Any]:
    """The parameters of each group; one of the user's own may keep its state in another form, which it knows itself."""
    return [group["params"] for group in state.get("param_groups", [])]


def restore(optimizer: Optimizer, saved: dict[str, Any], then: list[dict[str, Any]], now: list[dict[str, Any]]) -> bool:
    """Go on from a saved state, with the options that have been given another value since.

    An optimizer may change options as it goes (some keep counts there): those are saved, and go on, unless the user
    asks for something else.

    Args:
        saved: what `state_dict` gave.
        then: `options_of` the optimizer that gave it, when it was made.
        now: `options_of` this one when it was made.

    Returns:
        False where the saved state divides the parameters into other groups: nothing is restored.
    """
    if _divided(saved) != _divided(optimizer.state_dict()):
        return False
    optimizer.load_state_dict(saved)
    for group, before, given in zip(optimizer.param_groups, then, now, strict=True):
        changed = {name: value for name, value in given.items() if name not in before or before[name] != value}
        group.update(changed)
        if "lr" in changed:
            group["initial_lr"] = changed["lr"]  # what schedules start from
    _at_rest(optimizer)
    return True
