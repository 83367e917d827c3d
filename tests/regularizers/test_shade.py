"""SHADE against NumPy written from the thesis, its moving averages, its options."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from regularizers import Shade
from regularizers.shade import _measured_in_parts, shade_loss

pytestmark = pytest.mark.timeout(60)
FORMS = pytest.mark.parametrize("form", ["exp", "sigmoid"])


def present(y: np.ndarray, form: str) -> np.ndarray:
    """p(B = 1 | y)."""
    return 1 / (1 + np.exp(-y)) if form == "sigmoid" else 1 - np.exp(-np.maximum(y, 0))


def omega(y: np.ndarray, mu0: np.ndarray, mu1: np.ndarray, form: str) -> tuple[float, np.ndarray]:
    """(4.10) and its gradient, neuron by neuron; y [K, C, ...] with one pair of means for each C."""
    total, gradient = 0.0, np.zeros_like(y)
    for c in range(y.shape[1]):
        one = y[:, c]
        p = present(one, form)
        squares0, squares1 = (one - mu0[c]) ** 2, (one - mu1[c]) ** 2
        total += ((1 - p) * squares0 + p * squares1).mean()
        slope = p * (1 - p) if form == "sigmoid" else np.where(one > 0, np.exp(-one), 0)
        moved = 2 * (1 - p) * (one - mu0[c]) + 2 * p * (one - mu1[c])
        gradient[:, c] = (slope * (squares1 - squares0) + moved) / one.size
    return total, gradient


def activations(*shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return (2 * torch.randn(*shape, dtype=torch.double)).requires_grad_()


@FORMS
@pytest.mark.parametrize("shape", [(9, 4), (5, 4, 3, 2)])
def test_value_and_gradient_agree_with_numpy(shape, form):
    y, means = activations(*shape), np.linspace(-1.5, 2, 8).reshape(2, 4)
    loss = shade_loss(y, torch.tensor(means[0]), torch.tensor(means[1]), form)
    loss.backward()
    value, gradient = omega(y.detach().numpy(), *means, form)
    assert float(loss.detach()) == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(y.grad.numpy(), gradient, rtol=1e-10, atol=1e-15)
    summed = shade_loss(y.detach(), torch.tensor(means[0]), torch.tensor(means[1]), form, reduction="sum")
    assert float(summed) == pytest.approx(value * y.numel() / 4, rel=1e-10)


@FORMS
@pytest.mark.parametrize("shape", [(7, 4), (5, 4, 6)])
def test_the_pass_that_gives_all_at_once_agrees_with_autograd(shape, form):
    y = activations(*shape)
    low, high = torch.linspace(-2, 0, 4).double(), torch.linspace(0.5, 3, 4).double()
    shade_loss(y, low, high, form, "sum").backward()
    total, gradient, sums = _measured_in_parts(y.detach(), low, high, 0.3, form)
    assert float(total) == pytest.approx(float(shade_loss(y.detach(), low, high, form, "sum")), rel=1e-12)
    torch.testing.assert_close(gradient, 0.3 * y.grad, rtol=1e-12, atol=1e-15)
    p = present(y.detach().numpy(), form)
    over = tuple(axis for axis in range(y.dim()) if axis != 1)
    columns = [one.sum(over) for one in (1 - p, p, (1 - p) * y.detach().numpy(), p * y.detach().numpy())]
    np.testing.assert_allclose(sums.numpy(), np.stack(columns), rtol=1e-12, atol=1e-15)


@FORMS
def test_its_gradient_is_right_and_none_flows_through_the_means(form):
    means = torch.randn(2, 3, dtype=torch.double).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: shade_loss(y, means[0], means[1], form), activations(6, 3))
    shade_loss(activations(6, 3), means[0], means[1], form).backward()
    assert means.grad is None


def test_the_gradient_of_appendix_b_2():
    """(delta_1 + delta_2) x for a single linear neuron and sample; its discussion is true of the sigmoid only."""
    torch.manual_seed(1)
    x, weight = torch.randn(5).double(), torch.randn(5).double().requires_grad_()
    mu0, mu1 = torch.tensor([-0.7], dtype=torch.double), torch.tensor([1.1], dtype=torch.double)
    y = weight @ x
    shade_loss(y.reshape(1, 1), mu0, mu1, "sigmoid").backward()
    value = float(y.detach())
    s = 1 / (1 + math.exp(-value))
    delta1 = s * (1 - s) * ((value - 1.1) ** 2 - (value + 0.7) ** 2)
    delta2 = 2 * s * (value - 1.1) + 2 * (1 - s) * (value + 0.7)
    np.testing.assert_allclose(weight.grad.numpy(), (delta1 + delta2) * x.numpy(), rtol=1e-10)


def test_neurons_at_rest_at_their_means_cost_nothing():
    still = torch.full((4, 3), -1.0).double()
    assert shade_loss(still, torch.full((3,), -1.0).double(), torch.ones(3).double()) == 0


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 4)
    ).double()


def batches(count: int) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [torch.randn(6, 2, 6, 6, dtype=torch.double) for _ in range(count)]


@FORMS
def test_averages_follow_algorithm_5_and_the_loss_uses_those_before_the_batch(form):
    model, targets = network(), torch.zeros(6, dtype=torch.long)
    shade = Shade(model, weight=0.5, form=form)
    state = {name: [-np.ones(n), np.ones(n), np.full(n, 0.5), np.full(n, 0.5)] for name, n in (("0", 3), ("3", 5))}
    for x in batches(3):
        model(x)
        got = float(shade(targets).detach())
        first = model[0](x)
        shade._seen.clear()
        seen = {"0": first.detach().numpy(), "3": model[3](torch.relu(first).flatten(1)).detach().numpy()}
        shade._seen.clear()
        expected = 0.0
        for name, y in seen.items():
            mu0, mu1, p0, p1 = state[name]
            expected += omega(y, mu0, mu1, form)[0]
            axes = tuple(axis for axis in range(y.ndim) if axis != 1)
            on = present(y, form)
            p0, p1 = 0.8 * p0 + 0.2 * (1 - on).mean(axes), 0.8 * p1 + 0.2 * on.mean(axes)
            mu0 = 0.8 * mu0 + 0.2 * ((1 - on) * y).mean(axes) / p0
            mu1 = 0.8 * mu1 + 0.2 * (on * y).mean(axes) / p1
            state[name] = [mu0, mu1, p0, p1]
        assert got == pytest.approx(0.5 * expected, rel=1e-10)
        for name, wanted in state.items():
            for mine, right in zip(shade.averages(name), wanted, strict=True):
                np.testing.assert_allclose(mine.numpy(), right, rtol=1e-10)


def test_a_dead_neuron_leaves_finite_averages():
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2))
    nn.init.constant_(model[0].bias, -50.0)
    shade = Shade(model)
    for _ in range(600):
        model(torch.zeros(4, 2))
        loss = shade(torch.zeros(4, dtype=torch.long))
    found = shade.averages("0")
    assert loss.isfinite()
    assert all(one.isfinite().all() for one in found)
    assert found.p1 < 1e-40
    assert found.mu0 == pytest.approx(-50, rel=1e-5)


def test_statistics_per_position_make_each_position_a_neuron():
    model, (x,) = network(), batches(1)
    shade = Shade(model, weight=1.0, statistics="position", layers=["0"], example_inputs=x)
    assert shade.averages("0").mu0.shape == (3, 4, 4)
    y = model[0](x).detach()
    model(x)
    ones = torch.ones(48, dtype=torch.double)
    expected = shade_loss(y.flatten(1), -ones, ones)
    assert float(shade(torch.zeros(6)).detach()) == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(ValueError, match="got no example_inputs, expected a batch"):
        Shade(network(), statistics="position")
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double()
    Shade(model, statistics="position", example_inputs=x)
    with pytest.raises(ValueError, match=r"got an output \(6, 3, 5, 5\) of layer '0', expected statistics of shape"):
        model(torch.randn(6, 2, 7, 7, dtype=torch.double))


def test_a_sum_over_samples_grows_with_the_batch():
    losses = []
    for reduction in ("mean", "sum"):
        model, (x,) = network(), batches(1)
        shade = Shade(model, weight=1.0, reduction=reduction, layers=["3"])
        model(x)
        losses.append(float(shade(torch.zeros(6)).detach()))
    assert losses[1] == pytest.approx(6 * losses[0], rel=1e-12)


def test_the_state_goes_on_where_it_was_saved():
    model, (one, two) = network(), batches(2)
    shade = Shade(model)
    model(one)
    shade(torch.zeros(6))
    saved = {name: tensor.clone() for name, tensor in shade.state_dict().items()}
    other = network()
    again = Shade(other)
    again.load_state_dict(saved)
    losses = []
    for net, regularizer in ((model, shade), (other, again)):
        net(two)
        losses.append(float(regularizer(torch.zeros(6)).detach()))
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(shade.buffers(), again.buffers(), strict=True))


def test_the_functional_core_compiles_whole():
    torch._dynamo.reset()
    compiled = torch.compile(shade_loss, backend="eager", fullgraph=True)
    y, means = activations(6, 3), torch.ones(3).double()
    assert float(compiled(y, -means, means).detach()) == pytest.approx(float(shade_loss(y, -means, means).detach()))
