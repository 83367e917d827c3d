"""The exchanged vector: a model whose tensors are views of it trains exactly as one whose tensors are its own."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gossip.flat import Flat

pytestmark = pytest.mark.timeout(60)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 6 * 6, 7), nn.Linear(7, 4)
    )


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])


def test_modules_travel_together_with_all_parameters_in_front():
    first, second = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.BatchNorm1d(5)
    flat = Flat([first, second])
    with torch.no_grad():
        flat.vector[: flat.weights] = 7
    assert all((parameter == 7).all() for module in (first, second) for parameter in module.parameters())
    assert (second.running_var == 1).all()
    flat.check(everything=True)
    assert Flat([nn.Linear(3, 4)]).fingerprint == Flat(nn.Linear(3, 4)).fingerprint


def test_every_floating_tensor_is_a_view_and_keeps_its_values():
    model = convolutional()
    before = {name: tensor.clone() for name, tensor in tensors(model).items()}
    flat = Flat(model)
    storage = flat.vector.untyped_storage().data_ptr()
    for name, tensor in tensors(model).items():
        assert torch.equal(tensor, before[name])
        assert (tensor.untyped_storage().data_ptr() == storage) == tensor.is_floating_point()
        assert tensor.data_ptr() % 64 == 0 or not tensor.is_floating_point()
    assert flat.vector.shape == (flat.dimension,)
    assert not flat.vector.requires_grad


def test_changes_go_both_ways():
    model = convolutional()
    flat = Flat(model)
    flat.vector.fill_(0.5)
    assert all(bool((tensor == 0.5).all()) for tensor in tensors(model).values() if tensor.is_floating_point())
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    assert (flat.vector == 3).sum() == model[0].weight.numel()


def test_batch_statistics_travel_and_counters_do_not():
    model = convolutional()
    flat = Flat(model)
    model(torch.randn(4, 3, 8, 8))
    flat.vector.zero_()
    assert bool((model[1].running_var == 0).all())
    assert model[1].num_batches_tracked == 1


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.booleans())
def test_views_do_not_overlap_and_gaps_are_zero(widths, bias):
    model = nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in pairwise(widths)))
    flat = Flat(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    elements = sum(parameter.numel() for parameter in model.parameters())
    assert flat.vector.sum() == elements, "no element belongs to two tensors, and no gap to any"
    assert flat.dimension == sum(math.ceil(parameter.numel() / 16) * 16 for parameter in model.parameters())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, channels_last: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(1)
    losses = []
    for _ in range(6):
        x = torch.randn(8, 3, 8, 8)
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        loss = nn.functional.cross_entropy(model(x), torch.randint(4, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
        lambda parameters: torch.optim.AdamW(parameters, 0.01),
    ],
    ids=["sgd", "adamw"],
)
def test_training_is_that_of_an_unflattened_twin(optimizer, channels_last):
    torch.manual_seed(0)
    model = convolutional()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    flat = Flat(model)
    ours, theirs = (train(m, optimizer(m.parameters()), channels_last) for m in (model, twin))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for name, tensor in tensors(twin).items():
        torch.testing.assert_close(tensors(model)[name], tensor, rtol=1e-4, atol=1e-5)
    flat.check(everything=True)


def test_channels_last_strides_are_kept():
    model = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    strides, before = model.weight.stride(), model.weight.clone()
    Flat(model)
    assert model.weight.stride() == strides
    assert torch.equal(model.weight, before)


def test_a_tensor_with_gaps_becomes_dense():
    model = nn.Linear(4, 4, bias=False)
    model.weight = nn.Parameter(torch.arange(32.0).view(4, 8)[:, ::2])
    before = model.weight.detach().clone()
    Flat(model)
    assert model.weight.is_contiguous()
    assert torch.equal(model.weight, before)


def test_tied_parameters_stay_one():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    flat = Flat(model)
    assert flat.dimension == 48 + 16 + 16
    assert model[1].weight is model[0].weight
    with torch.no_grad():
        model[0].weight.fill_(2)
    assert bool((model[1].weight == 2).all())
    model[1].weight = nn.Parameter(model[1].weight.detach().clone())
    with pytest.raises(ValueError, match="moved out of the exchanged vector"):
        flat.check(everything=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_one_floating_type_will_do(dtype):
    flat = Flat(nn.Linear(3, 3).to(dtype))
    assert flat.vector.dtype == dtype


def test_mixed_types_are_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match=r"more than one dtype: torch.float32 \(0\.bias\), torch.float64 \(1\.bias\)"):
        Flat(model)


def test_mixed_devices_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"more than one device: cpu .*, meta"):
        Flat(model)


def test_complex_parameters_are_refused_and_complex_buffers_stay_out_with_a_word_unless_they_are_constants(caplog):
    model = nn.Linear(2, 2)
    model.register_buffer("turns", torch.ones(4, dtype=torch.complex64), persistent=False)
    assert Flat(model).dimension == 32
    assert not caplog.messages
    model.register_buffer("state", torch.ones(4, dtype=torch.complex64))
    assert Flat(model).dimension == 32
    (said,) = caplog.messages
    assert said.startswith("complex buffer 'state' stays out of the exchange, every worker keeps its own")
    model.phase = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    with pytest.raises(ValueError, match="got complex parameter 'phase'"):
        Flat(model)


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="got ReLU without floating-point parameters"):
        Flat(nn.ReLU())


def test_the_fingerprint_is_of_names_shapes_and_type():
    prints = [
        Flat(nn.Linear(3, 4)).fingerprint,
        Flat(nn.Linear(4, 3)).fingerprint,
        Flat(nn.Linear(3, 4).double()).fingerprint,
        Flat(nn.Sequential(nn.Linear(3, 4))).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert Flat(nn.Linear(3, 4)).fingerprint == prints[0]
    assert all(0 <= one < 1 << 63 for one in prints)


BREAKS = {
    "to another type": lambda model: model.double(),
    "load_state_dict(assign=True)": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True),
    "a buffer reassigned": lambda model: setattr(model[1], "running_mean", model[1].running_mean * 2),
    "a buffer removed": lambda model: setattr(model[1], "running_mean", None),
    "a parameter's data replaced": lambda model: setattr(model[4].weight, "data", model[4].weight.data.clone()),
}


@pytest.mark.parametrize("how", BREAKS)
def test_broken_aliasing_is_noticed(how):
    model = convolutional()
    flat = Flat(model)
    BREAKS[how](model)
    with pytest.raises(ValueError, match="moved out of the exchanged vector"):
        flat.check(everything=True)
    with pytest.raises(ValueError, match=r"call \.to\(\), \.half\(\) or load_state_dict\(assign=True\) before"):
        for _ in range(len(tensors(model)) + 1):
            flat.check()


@pytest.mark.parametrize(
    "harmless",
    [
        lambda model: model.load_state_dict(copy.deepcopy(model.state_dict())),
        lambda model: model.to("cpu"),
        lambda model: model.requires_grad_(False),
        lambda model: model.eval(),
        lambda model: model.zero_grad(),
        lambda model: train(model, torch.optim.SGD(model.parameters(), 0.1)),
    ],
    ids=["load_state_dict", "to the same device", "requires_grad", "eval", "zero_grad", "training"],
)
def test_what_keeps_the_tensors_is_not_complained_about(harmless):
    model = convolutional()
    flat = Flat(model)
    harmless(model)
    flat.check(everything=True)


def test_parameters_come_first_and_buffers_behind_them():
    model = convolutional()
    flat = Flat(model)
    flat.vector[: flat.weights] = 3.0
    flat.vector[flat.weights :] = 5.0
    assert all(bool((parameter == 3.0).all()) for parameter in model.parameters())
    assert all(bool((buffer == 5.0).all()) for buffer in model.buffers() if buffer.is_floating_point())
    assert flat.weights >= sum(parameter.numel() for parameter in model.parameters())
