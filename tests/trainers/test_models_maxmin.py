"""MaxMin's identities (Blot's thesis, section 3.3) and the width at which it costs no more parameters than relu."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from trainers.models import MODELS, MaxMin, build, parameter_count

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 28, 28), (3, 32, 32)]


def count(name, shape, **options):
    with torch.device("meta"):
        return parameter_count(build(MODELS.config(name)(**options), shape, 10))


@settings(max_examples=50, deadline=2000)
@given(
    seed=st.integers(0, 2**31),
    channels=st.integers(1, 5),
    side=st.integers(3, 12),
    window=st.sampled_from([(2, 0), (3, 0), (3, 1)]),
)
def test_pooled_maxmin_keeps_maximum_and_minimum_of_each_window(seed, channels, side, window):
    kernel, padding = window
    x = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(seed))
    pooled = functional.max_pool2d(MaxMin()(x), kernel, 2, padding)
    maximum = functional.max_pool2d(x, kernel, 2, padding)
    minimum = -functional.max_pool2d(-x, kernel, 2, padding)
    assert torch.equal(pooled, torch.cat((torch.relu(maximum), torch.relu(-minimum)), dim=1))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 5, 5)])
def test_maxmin_doubles_channels_in_two_blocks_and_loses_nothing(shape):
    x = torch.randn(shape)
    positive, negative = MaxMin()(x).chunk(2, dim=1)
    assert torch.equal(positive, x.clamp(min=0)) and torch.equal(negative, (-x).clamp(min=0))
    assert torch.equal(positive - negative, x)


def test_gradient_is_the_sign_and_zero_at_zero():
    x = torch.tensor([[-2.0, 0.0, 3.0]], requires_grad=True)
    torch.autograd.backward(MaxMin()(x).sum())
    assert x.grad is not None and x.grad.tolist() == [[-1.0, 0.0, 1.0]]


def test_gradients_agree_with_finite_differences():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaxMin(), (x,))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MODELS.names())
def test_maxmin_has_the_parameters_of_its_relu_twin(name, shape):
    assert count(name, shape, activation="maxmin") == pytest.approx(count(name, shape), rel=0.02)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn", {"normalization": "group"}),
        ("mlp", {"hidden": [1520, 1520], "normalization": "batch"}),
        ("lenet", {"kernels": [5, 3, 3], "pool": 2}),
        ("alexnet", {"kernel": 5, "pool": 2}),
        ("wide_resnet", {"depth": 28, "k": 10}),
        ("cnn", {"width": 2.5}),
    ],
)
def test_the_match_holds_for_the_variants_in_use(name, options):
    twin = count(name, (3, 28, 28), **options)
    assert count(name, (3, 28, 28), activation="maxmin", **options) == pytest.approx(twin, rel=0.02)


def test_without_the_match_the_layers_keep_their_width():
    model = build(MODELS.config("cnn")(activation="maxmin", match_parameters=False), (3, 28, 28), 10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 32, 64]
    assert [layer.in_channels for layer in convolutions] == [3, 64, 64]


@pytest.mark.parametrize("width", [0.05, 0.3, 1.0, 3.0])
def test_width_scales_the_channels_and_leaves_at_least_one(width):
    model = build(MODELS.config("cnn")(width=width), (3, 28, 28), 10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    expected = {0.05: [2, 2, 3], 0.3: [10, 10, 19], 1.0: [32, 32, 64], 3.0: [96, 96, 192]}
    assert [layer.out_channels for layer in convolutions] == expected[width]
    assert build(MODELS.config("cnn")(width=1e-3), (3, 28, 28), 10)(torch.randn(2, 3, 28, 28)).shape == (2, 10)
