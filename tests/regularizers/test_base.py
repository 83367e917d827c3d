"""Which layers a regularizer sees, when, and under what: modes, copies, autocast, compilation, in-place activations."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from regularizers import MeanSquare, MutualInformation, Shade, VarianceConstancy
from regularizers.fused import Fused
from regularizers.layers import linear_layers, named_layers, preactivation_layers
from regularizers.shade import shade_loss
from regularizers.tap import tap
from regularizers.vcl import vcl_loss

pytestmark = pytest.mark.timeout(60)
TARGETS = torch.zeros(6, dtype=torch.long)


def network(inplace: bool = False, head: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace)
    )
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(27, 5), nn.ReLU(inplace), nn.Linear(5, 4))
    parts = {"features": features, "head": head or classifier}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def images(seed: int = 1) -> torch.Tensor:
    return torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(seed))


def test_the_logits_are_left_out():
    assert list(preactivation_layers(network())) == ["features.0", "features.2", "head.1"]
    pooled = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1))
    assert list(preactivation_layers(network(head=pooled))) == ["features.0", "features.2"]
    assert list(preactivation_layers(network(head=nn.Conv2d(3, 4, 3)))) == ["features.0", "features.2", "head"]
    with pytest.raises(ValueError, match="without linear or convolution layers before its classifier"):
        preactivation_layers(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))


def test_layers_are_named_by_pattern_and_other_modules_by_name():
    model = network()
    assert list(named_layers(model, ["head.*", "features.0"])) == ["features.0", "head.1", "head.3"]
    assert list(named_layers(model, ["features.3"])) == ["features.3"]
    with pytest.raises(
        ValueError, match=r"got layer pattern 'heads\.\*'.* any of: features\.0, features\.2, head\.1, "
    ):
        Shade(model, layers=["heads.*"])
    with pytest.raises(ValueError, match=r"got layer pattern 'head\.3'.* any of: features\.0, features\.2, head\.1$"):
        Shade(model, layer_weights={"head.3": 2.0})
    shade = Shade(model, layers=["features.3"])
    model(images())
    assert shade(TARGETS) > 0


def test_each_layer_may_have_a_weight_of_its_own():
    losses = []
    for weights in ({}, {"features.*": 0.0}, {"*": 0.0, "head.1": 1.0}, {"features.*": 3.0, "head.1": 3.0}):
        model = network()
        shade = Shade(model, weight=1.0, layer_weights=weights)
        model(images())
        losses.append(float(shade(TARGETS).detach()))
    assert losses[1] == pytest.approx(losses[2])
    assert losses[3] == pytest.approx(3 * losses[0])
    assert 0 < losses[1] < losses[0]
    for wrong in ({"weight": -1.0}, {"layer_weights": {"head.1": -1.0}}, {"layers": []}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Shade(network(), **wrong)


@pytest.mark.parametrize("inplace", [False, True])
def test_it_sees_what_the_layers_gave_whatever_is_done_to_it_next(inplace):
    """Every gradient is that of the same losses on clones, by autograd alone."""
    model = network(inplace).double()
    x = images().double()
    shade, vcl = Shade(model, weight=0.3), VarianceConstancy(model, weight=0.2, example_inputs=x)
    square = MeanSquare(model, weight=0.1)
    betas = list(vcl.parameters())
    loss = functional.cross_entropy(model(x), TARGETS) + shade(TARGETS) + vcl(TARGETS) + square(TARGETS)
    loss.backward()
    got = [parameter.grad.clone() for parameter in [*model.parameters(), *betas]]
    for one in (shade, vcl, square):
        one.remove()
    for parameter in [*model.parameters(), *betas]:
        parameter.grad = None
    h, expected = x, torch.zeros(()).double()
    for layer in [*model.features, *model.head]:
        h = layer(h.clone())
        if layer in (model.features[0], model.features[2], model.head[1]):
            one = torch.ones(h.shape[1]).double()
            beta = betas[[model.features[0], model.features[2], model.head[1]].index(layer)]
            expected = expected + 0.3 * shade_loss(h, -one, one) + 0.2 * vcl_loss(h, beta, 2)
            expected = expected + 0.1 * h.square().mean()
    expected = expected + functional.cross_entropy(h, TARGETS)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for mine, parameter in zip(got, [*model.parameters(), *betas], strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-10, atol=1e-13)


def test_critics_of_large_maps_bear_activations_in_place():
    gradients = []
    for inplace in (False, True):
        model = network(inplace)
        information = MutualInformation(model, weight=0.1, layers=["features.0"], side=2, example_inputs=images())
        torch.manual_seed(0)
        model(images())
        gradients += torch.autograd.grad(information(TARGETS), model.features[0].weight)
    assert torch.equal(*gradients)
    assert (gradients[0] != 0).any()


@pytest.mark.parametrize("kind", [Shade, VarianceConstancy, MeanSquare])
def test_a_mean_over_many_keeps_its_small_gradients_in_float16(kind, monkeypatch):
    """A million positions: each gradient is below float16's range before the loss is scaled, and in it afterwards."""
    monkeypatch.setattr("regularizers.fused.SMALL", 1 << 30)  # no compiler's seconds
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    exact = torch.randn(16, 1, 256, 256, generator=torch.Generator().manual_seed(0)).half().float()
    regularizer = kind(model, weight=1e-2, example_inputs=exact)
    found = []
    for y in (exact, exact.half()):
        y = (2 * y).requires_grad_()
        seen = {"0": [regularizer.observe("0", (y,), y)]}
        loss = 1e-2 * regularizer.losses(seen, TARGETS)["0"]
        (gradient,) = torch.autograd.grad(2.0**16 * loss, y)
        assert gradient.dtype == y.dtype
        found.append(gradient.float())
    whole, narrow = found
    assert float((narrow - whole).norm() / whole.norm()) < 1e-3


def test_its_own_loss_alone_can_be_differentiated_and_more_than_once():
    model, x = network().double(), images().double()
    shade, vcl = Shade(model), VarianceConstancy(model, example_inputs=x)
    model(x)
    loss = shade(TARGETS) + vcl(TARGETS)
    first = torch.autograd.grad(loss, list(model.features.parameters()), retain_graph=True)
    second = torch.autograd.grad(3 * loss, list(model.features.parameters()))
    assert any((one != 0).any() for one in first)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(3 * one, other)


def test_a_tapped_gradient_joins_the_one_from_above():
    def function(x, parameter, rows):
        y = 2 * x
        value = (y.detach()[:rows].square() * parameter.detach()).sum()
        own = 2 * y.detach()[:rows] * parameter.detach()
        of_parameter = y.detach()[:rows].square().sum(0)
        loss = tap(y, value, own, parameter, of_parameter)
        return (y.sin().sum() + y.cos().sum()) * 2 + loss * 5

    torch.manual_seed(0)
    x, parameter = torch.randn(5, 3, dtype=torch.double), torch.rand(3, dtype=torch.double)
    x.requires_grad_(), parameter.requires_grad_()
    for rows in (5, 2):
        assert torch.autograd.gradcheck(
            lambda a, b, rows=rows: function(a, b, rows), (x, parameter), check_undefined_grad=False
        )


def test_a_module_that_is_called_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(self.inner(self.inner(x).relu()).relu())

    torch.manual_seed(0)
    model = Twice().double()
    x = torch.randn(6, 4).double()
    shade, vcl = Shade(model, weight=1.0), VarianceConstancy(model, weight=1.0, example_inputs=x)
    assert [tuple(one.shape) for one in vcl.parameters()] == [(4,)]
    model(x)
    got = [float(one(TARGETS).detach()) for one in (shade, vcl)]
    first = functional.linear(x, model.inner.weight, model.inner.bias)
    second = functional.linear(first.relu(), model.inner.weight, model.inner.bias)
    ones = torch.ones(4).double()
    assert got[0] == pytest.approx(float(shade_loss(torch.cat([first, second]).detach(), -ones, ones)))
    assert got[1] == pytest.approx(float((vcl_loss(first, ones, 2) + vcl_loss(second, ones, 2)).detach() / 2))


def test_tokens_are_samples_of_a_linear_layer():
    model = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)).double()
    shade = Shade(model, weight=1.0)
    x = torch.randn(6, 7, 4).double()
    model(x)
    y, ones = model[0](x).detach().reshape(-1, 5), torch.ones(5).double()
    model(x)
    assert float(shade(TARGETS).detach()) == pytest.approx(float(shade_loss(y, -ones, ones)))


def test_evaluation_and_copies_change_nothing():
    model = network()
    shade = Shade(model)
    before = {name: tensor.clone() for name, tensor in shade.state_dict().items()}

    def unchanged() -> bool:
        return all(torch.equal(tensor, before[name]) for name, tensor in shade.state_dict().items())

    model.eval()
    model(images())
    assert shade(TARGETS) == 0
    assert unchanged()
    model.train()
    with torch.no_grad():
        model(images())
    assert shade(TARGETS) == 0
    copied = copy.deepcopy(model)
    copied(images())
    with pytest.raises(ValueError, match="expected a forward pass of the model in training mode"):
        shade(TARGETS)
    assert unchanged()
    shade.eval()
    model(images())
    assert shade(TARGETS) > 0
    assert unchanged()


def test_the_last_pass_counts():
    model = network()
    square = MeanSquare(model, weight=1.0)
    model(images(1))
    model(images(2))
    last = float(square(TARGETS).detach())
    model(images(2))
    assert float(square(TARGETS).detach()) == last


@pytest.mark.parametrize("kind", [Shade, MeanSquare, VarianceConstancy])
def test_activations_that_are_not_finite_are_named_by_layer(kind):
    model = network()
    regularizer = kind(model, example_inputs=images())
    with torch.no_grad():
        model.features[2].weight[0, 0] = torch.nan
    model(images())
    with pytest.raises(ValueError, match=r"got activations of layer 'features\.2' that are NaN, infinite"):
        regularizer(TARGETS)
    assert all(buffer.isfinite().all() for buffer in regularizer.buffers())


@pytest.mark.parametrize("kind", [Shade, MeanSquare, VarianceConstancy])
def test_under_autocast_statistics_are_float32(kind):
    losses = []
    for narrow in (True, False):
        model = network()
        regularizer = kind(model, weight=1.0, example_inputs=images())
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            logits = model(images())
            loss = regularizer(TARGETS)
        assert (logits.dtype == torch.bfloat16) == narrow
        assert loss.dtype == torch.float32
        assert all(buffer.dtype == torch.float32 for buffer in regularizer.buffers())
        (functional.cross_entropy(logits, TARGETS) + loss).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("kind", [Shade, MeanSquare, VarianceConstancy])
def test_a_compiled_model_is_seen_as_well(kind):
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = network().double()
        regularizer = kind(model, weight=1.0, example_inputs=images().double())
        called = torch.compile(model, backend="aot_eager") if compiled else model
        losses = []
        for step in range(3):
            logits = called(images(step).double())
            loss = functional.cross_entropy(logits, TARGETS) + regularizer(TARGETS)
            model.zero_grad()
            loss.backward()
            losses.append(float(loss.detach()))
        found.append((losses, [p.grad for p in model.parameters()], list(regularizer.buffers())))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    for eager, graph in zip(found[0][1] + found[0][2], found[1][1] + found[1][2], strict=True):
        torch.testing.assert_close(eager, graph, rtol=1e-9, atol=1e-12)


def test_what_a_named_layer_gives_must_be_a_tensor():
    model = nn.Sequential(nn.LSTM(3, 4))
    square = MeanSquare(model, layers=["0"])
    with pytest.raises(ValueError, match="got a tuple from layer '0', expected a tensor"):
        model(torch.randn(2, 5, 3))
    square.remove()


def test_layers_are_unaware_of_a_removed_regularizer():
    model = network()
    shade = Shade(model)
    shade.remove()
    model(images())
    with pytest.raises(ValueError, match="expected a forward pass"):
        shade(TARGETS)
    assert not any(layer._forward_hooks for layer in linear_layers(model).values())


def test_a_function_without_a_compiler_runs_as_it_is(caplog, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("no compiler here\nand more")

    def double(x):
        return 2 * x

    monkeypatch.setattr("regularizers.fused.SMALL", 0)
    monkeypatch.setattr(torch, "compile", lambda function, **options: refuse)
    fused = Fused(double)
    assert fused(torch.ones(2)).sum() == fused(torch.ones(2)).sum() == 4
    assert caplog.text.count("double is not compiled and takes several passes over the activations: no compiler") == 1
