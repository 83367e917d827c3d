"""Optimizers: agreement with torch's own, which parameters decay, the user's own class, bad input."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from configs.base import Custom
from trainers.optimizers import OPTIMIZERS, build, options_of, restore
from trainers.schedules import CosineConfig, LearningRate

ADAPTER = TypeAdapter(OPTIMIZERS.field())
REFERENCES = [
    ({"name": "sgd", "lr": 0.01}, torch.optim.SGD, {"lr": 0.01}),
    ({"name": "sgd", "lr": 0.02, "momentum": 0.9}, torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
    (
        {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "lr": 0.01},
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "lr": 0.01},
    ),
    (
        {"name": "adam", "beta1": 0.8, "weight_decay": 0.1},
        torch.optim.Adam,
        {"betas": (0.8, 0.999), "weight_decay": 0.1},
    ),
    ({"name": "adamw", "lr": 0.01, "eps": 1e-6}, torch.optim.AdamW, {"lr": 0.01, "eps": 1e-6}),
]


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).to(dtype)


def trained(model, optimizer):
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        inputs = torch.randn(8, 1, 4, 4, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("config", "reference", "options"), REFERENCES)
def test_updates_agree_with_torch_to_rounding(config, reference, options):
    model = network(torch.float64)
    optimizer = build(ADAPTER.validate_python(config), model.parameters())
    assert type(optimizer) is reference
    twin = network(torch.float64)
    expected = trained(twin, reference(twin.parameters(), foreach=False, **options))
    torch.testing.assert_close(trained(model, optimizer), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_fused_kernels_are_used_where_torch_has_them(name):
    config = OPTIMIZERS.config(name)()
    assert build(config, network().parameters()).defaults["fused"] is True
    complex_parameter = torch.zeros(2, dtype=torch.complex64, requires_grad=True)
    assert not build(config, [complex_parameter]).defaults["fused"]


@pytest.mark.parametrize("config", [{"name": "sgd", "momentum": 0.9, "nesterov": True}, {"name": "adam"}])
def test_a_parameter_may_have_its_first_gradient_later_than_others(config):
    ends = []
    for fused in (True, False):
        parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
        optimizer = build(ADAPTER.validate_python(config), parameters)
        if not fused:
            options = {name: optimizer.param_groups[0][name] for name in optimizer.defaults}
            optimizer = type(optimizer)(parameters, **options | {"fused": False})
        for used in (parameters[:1], parameters, parameters[1:], parameters):
            optimizer.zero_grad()
            sum((parameter**3).sum() for parameter in used).backward()
            optimizer.step()
        ends.append(torch.cat(parameters))
    torch.testing.assert_close(*ends)


def decays(optimizer):
    return {id(tensor): group["weight_decay"] for group in optimizer.param_groups for tensor in group["params"]}


def test_weight_decay_acts_on_everything_unless_told_otherwise():
    model = network()
    config = {"name": "sgd", "weight_decay": 0.5}
    assert set(decays(build(ADAPTER.validate_python(config), model.parameters())).values()) == {0.5}
    found = decays(build(ADAPTER.validate_python(config | {"decay": "weights"}), model.parameters()))
    expected = {id(p): 0.5 if name in ("0.weight", "3.weight") else 0.0 for name, p in model.named_parameters()}
    assert found == expected


def test_a_group_keeps_the_decay_it_brings():
    own = torch.zeros(3, 3, requires_grad=True)
    for decay in ("all", "weights"):
        config = ADAPTER.validate_python({"name": "adamw", "weight_decay": 0.5, "decay": decay})
        optimizer = build(config, [{"params": network().parameters()}, {"params": [own], "weight_decay": 0.0}])
        assert decays(optimizer)[id(own)] == 0
        assert 0.5 in decays(optimizer).values()


def test_frozen_parameters_are_left_out():
    model = network()
    model[0].requires_grad_(False)
    assert len(decays(build(OPTIMIZERS.config("sgd")(), model.parameters()))) == 4
    model.requires_grad_(False)
    for nothing in (list(model.parameters()), []):
        with pytest.raises(ValueError, match="got no parameter that requires a gradient"):
            build(OPTIMIZERS.config("sgd")(), nothing)


@pytest.mark.parametrize(
    ("config", "field", "message"),
    [
        ({"name": "sgd", "nesterov": True}, "nesterov", "momentum 0, expected momentum above 0"),
        ({"name": "sgd", "momentum": 1.0}, "momentum", "less than 1"),
        ({"name": "sgd", "lr": 0.0}, "lr", "greater than 0"),
        ({"name": "sgd", "weight_decay": -1e-4}, "weight_decay", "greater than or equal to 0"),
        ({"name": "sgd", "decay": "some"}, "decay", "weights"),
        ({"name": "adam", "momentum": 0.9}, "momentum", "Extra inputs"),
        ({"name": "adam", "beta2": 1.0}, "beta2", "less than 1"),
        ({"name": "sgd", "schedule": {"name": "cosine", "floor": 2.0}}, "floor", "less than or equal to 1"),
    ],
)
def test_bad_options_are_refused_beside_their_field(config, field, message):
    with pytest.raises(ValidationError, match=message) as error:
        ADAPTER.validate_python(config)
    assert error.value.errors()[0]["loc"][-1] == field


def test_a_schedule_is_part_of_the_options():
    config = ADAPTER.validate_python({"name": "adam", "schedule": {"name": "cosine", "warmup": 5}})
    assert config.schedule == CosineConfig(warmup=5)


class OwnOptimizer(torch.optim.SGD):
    def __init__(self, parameters, speed):
        super().__init__(parameters, lr=speed)


def no_optimizer(parameters):
    return list(parameters)


def test_a_users_optimizer_gets_parameters_and_options():
    config = ADAPTER.validate_python({"name": f"{__name__}:OwnOptimizer", "speed": 0.7})
    assert build(config, network().parameters()).param_groups[0]["lr"] == 0.7
    adagrad = build(Custom(name="torch.optim:Adagrad", lr=0.3), network().parameters())
    assert isinstance(adagrad, torch.optim.Adagrad) and adagrad.defaults["lr"] == 0.3


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        (f"{__name__}:OwnOptimizer", {"sped": 1}, "speed.*got.*sped.*expected options"),
        (f"{__name__}:no_optimizer", {}, "gave a list, expected a torch.optim.Optimizer"),
        (f"{__name__}:REFERENCES", {}, "is a list, expected a class or function"),
        ("torch.optim:Absent", {}, "has no 'Absent'"),
        ("torch.optim:LBFGS", {}, "'torch.optim:LBFGS' computes the loss of a batch several times"),
    ],
)
def test_a_users_optimizer_that_cannot_be_built_says_why(path, options, message):
    with pytest.raises(ValueError, match=message):
        build(Custom(name=path, **options), network().parameters())


class Counting(torch.optim.SGD):
    """Keeps a count among its options, as some optimizers do."""

    def __init__(self, parameters, lr, momentum):
        super().__init__(parameters, lr=lr, momentum=momentum)
        for group in self.param_groups:
            group["count"] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
        return super().step(closure)


def test_an_option_given_another_value_holds_and_what_the_optimizer_counted_goes_on():
    model = network()
    first = Counting(model.parameters(), lr=0.1, momentum=0.9)
    then = options_of(first)
    LearningRate(first, lambda step, total: 0.5, 10).set(0)
    trained(model, first)
    for lr in (0.1, 0.02):
        second = Counting(model.parameters(), lr=lr, momentum=0.8)
        assert restore(second, first.state_dict(), then, options_of(second))
        LearningRate(second, lambda step, total: 0.5, 10).set(0)
        (group,) = second.param_groups
        assert (group["lr"], group["momentum"], group["count"]) == (0.5 * lr, 0.8, 5)
        assert len(second.state) == 6


class Wrapped(torch.optim.SGD):
    """Keeps its state in a form of its own."""

    def state_dict(self):
        return {"inner": super().state_dict()}

    def load_state_dict(self, state):
        super().load_state_dict(state["inner"])


def test_a_state_in_a_form_of_its_own_is_restored():
    model = network()
    first, second = (Wrapped(model.parameters(), lr=0.1, momentum=0.9) for _ in range(2))
    trained(model, first)
    assert restore(second, first.state_dict(), options_of(first), options_of(second))
    assert len(second.state) == 6


def test_a_state_of_other_groups_is_not_restored():
    model = network()
    optimizers = [
        build(ADAPTER.validate_python({"name": "adam", "decay": decay}), model.parameters())
        for decay in ("all", "weights")
    ]
    trained(model, optimizers[0])
    assert not restore(optimizers[1], optimizers[0].state_dict(), *map(options_of, optimizers))
    assert not optimizers[1].state
