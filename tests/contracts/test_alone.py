"""What every exchange method must keep in a process that nobody started as one of several workers."""

import copy
import resource

import pytest
import torch
from support.methods import EVERY, OPTIONS, name_of
from support.workers import make_model
from torch import nn

import gossip
from gossip.directory import root

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def alone(monkeypatch):
    """A process that nobody started as one of several workers."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@EVERY
def test_one_worker_works(alone, method):
    model = make_model("batch_norm")
    before = copy.deepcopy(model.state_dict())
    exchange = gossip.build(name_of(method), model, **OPTIONS[method])
    assert exchange.wrap(model) is model
    for _ in range(10):
        exchange.step()
    exchange.stats()
    assert exchange.steps == 10
    assert exchange.close() is True
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not list(root().glob("*gosgd-*"))


def same(one, other) -> None:
    """Two states, tensors among them."""
    assert one.keys() == other.keys()
    for name in one:
        if isinstance(one[name], torch.Tensor):
            assert torch.equal(one[name], other[name]), name
        else:
            assert one[name] == other[name], name


@EVERY
def test_state_round_trips(alone, method, tmp_path):
    exchange = gossip.build(name_of(method), make_model("mlp"), seed=1, **OPTIONS[method])
    for _ in range(7):
        exchange.step()
    torch.save(exchange.state_dict(), tmp_path / "state.pt")
    other = gossip.build(name_of(method), make_model("mlp"), seed=2, **OPTIONS[method])
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    other.start(exchange.steps)
    for _ in range(5):
        exchange.step()
        other.step()
        same(other.state_dict(), exchange.state_dict())
    exchange.close()
    other.close()


@EVERY
def test_weights_that_were_moved_away_are_noticed_at_the_next_step(alone, method):
    model = make_model("mlp")
    exchange = gossip.build(name_of(method), model, **OPTIONS[method])
    exchange.step()
    model.double()
    with pytest.raises(ValueError, match="moved out of the exchanged vector"):
        exchange.step()
    exchange.close()


@pytest.mark.parametrize(
    ("method", "options", "complaint"),
    [
        ("gosdg", {}, "unknown exchange method 'gosdg', expected one of .*; did you mean 'gosgd'?"),
        ("gosgd", {"rho": 2}, "rho: got 2, expected a number <= 1"),
        ("gosgd", {"rhoo": 0.1}, "rhoo: got an unknown key, .*did you mean 'rho'"),
        ("gosgd", {"peers": "star"}, "peers: got 'star'"),
        ("persyn", {}, "expected exactly one of them"),
        ("none", {"rho": 0.1}, "rho: got an unknown key, expected one of trace"),
        ("easgd", {"alpha": 1.0}, "got alpha=1 for 1 workers, expected 0 < alpha < 1: .* would diverge; lower alpha"),
        ("easgd", {"mode": "async", "alpha": 1.5}, "got alpha=1.5 for 1 workers, .* would diverge"),
        ("easgd", {"alpha": 0.1, "beta": 0.9}, "got alpha=0.1 and beta=0.9, expected one of them"),
        ("easgd", {"tau": 0}, "tau: got 0"),
        ("easgd", {"mode": "often"}, "mode: got 'often'"),
        ("easgd", {"server": "process"}, "got server=process with mode=sync, expected none"),
        ("downpour", {"n_push": 0}, "n_push: got 0"),
        ("downpour", {"server": "everywhere"}, "server: got 'everywhere'"),
        ("nowhere:Method", {}, "cannot import 'nowhere'"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left(alone, method, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        gossip.build(method, make_model("mlp"), **options)
    assert not list(root().glob("*gosgd-*"))


def test_a_model_that_cannot_be_exchanged_leaves_nothing(alone):
    with pytest.raises(ValueError, match="got Flatten without floating-point parameters"):
        gossip.build("gosgd", nn.Flatten())
    assert not list(root().glob("*gosgd-*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"shared memory: got .* expected 4,156,032 bytes"):
            gossip.build("gosgd", nn.Linear(1000, 1039, bias=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(root().glob("*gosgd-*"))


@pytest.mark.parametrize("method", ["none", "gosgd"])
def test_a_step_after_the_end_is_refused(alone, method):
    exchange = gossip.build(method, make_model("mlp"))
    exchange.step()
    assert exchange.close()
    with pytest.raises(ValueError, match=r"got a step after close\(\)"):
        exchange.step()


@pytest.mark.parametrize(
    ("method", "state", "told"),
    [
        ("none", {"generator": 1}, r"got \['generator'\] for NoExchange, expected nothing"),
        ("gosgd", {}, r"got \[\] for GoSGD, expected 'generator' among them; is the checkpoint another method's\?"),
        ("easgd", {}, r"got \[\] for EASGDSync, expected 'center'"),
        ("downpour", {"generator": 1}, r"got \['generator'\] for Downpour, expected 'center'"),
    ],
)
def test_the_state_of_another_method_is_refused(alone, method, state, told):
    exchange = gossip.build(method, make_model("mlp"))
    with pytest.raises(ValueError, match=told):
        exchange.load_state_dict(state)
    exchange.close()
