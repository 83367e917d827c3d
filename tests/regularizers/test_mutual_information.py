"""The bound against NumPy and the closed form, the critic's corrected gradient, and the regularizer made of both."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from regularizers import MutualInformation
from regularizers.mine import Ascent, Critic, corrected_bound, donsker_varadhan, estimate, moved_average, paired

pytestmark = pytest.mark.timeout(60)


def scores(seed=0, count=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=count), rng.normal(size=(count, count - 1))


def leaves(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


def test_the_bound_and_its_gradient_are_donskers_and_varadhans():
    joint, marginal = scores()
    given = leaves(joint, marginal)
    bound = donsker_varadhan(*given)
    bound.backward()
    weights = np.exp(marginal) / np.exp(marginal).sum()
    assert bound.item() == pytest.approx(joint.mean() - np.log(np.exp(marginal).mean()), rel=1e-12)
    np.testing.assert_allclose(given[0].grad.numpy(), np.full(6, 1 / 6), rtol=1e-12)
    np.testing.assert_allclose(given[1].grad.numpy(), -weights, rtol=1e-12)
    assert torch.autograd.gradcheck(donsker_varadhan, leaves(joint, marginal))
    assert donsker_varadhan(torch.zeros(3), torch.zeros(5)) == 0
    assert donsker_varadhan(torch.full((3,), 1e4), torch.full((5,), 1e4)).abs() < 1e-2


def test_the_moving_average_changes_the_critics_gradient_and_nothing_else():
    joint, marginal = scores()
    first = moved_average(torch.tensor(-math.inf), torch.tensor(marginal), 0.01)
    assert first.item() == pytest.approx(np.log(np.exp(marginal).mean()), rel=1e-12)
    later = torch.tensor(2 * marginal, requires_grad=True)
    average = moved_average(first, later, 0.01)
    expected = 0.99 * np.exp(marginal).mean() + 0.01 * np.exp(2 * marginal).mean()
    assert average.exp().item() == pytest.approx(expected, rel=1e-12) and not average.requires_grad
    given = [torch.tensor(joint, requires_grad=True), later]
    bound = corrected_bound(*given, average)
    assert bound.item() == pytest.approx(donsker_varadhan(*given).item(), rel=1e-12)
    bound.backward()
    np.testing.assert_allclose(given[0].grad.numpy(), np.full(6, 1 / 6), rtol=1e-12)
    np.testing.assert_allclose(later.grad.numpy(), -np.exp(2 * marginal) / marginal.size / expected, rtol=1e-12)


def test_pairs_are_the_diagonal_and_all_others():
    matrix = torch.arange(16.0).view(4, 4)
    own, others = paired(matrix)
    assert own.tolist() == [0, 5, 10, 15]
    assert others.tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14]


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_correlated_gaussians_have_their_closed_form_information(rho):
    generator = torch.Generator().manual_seed(0)

    def sample(count):
        x = torch.randn(count, 10, generator=generator)
        return x, rho * x + math.sqrt(1 - rho**2) * torch.randn(count, 10, generator=generator)

    found = estimate(sample, steps=300, batch_size=512, lr=5e-3)
    assert found == pytest.approx(-5 * math.log(1 - rho**2), rel=0.05)


def test_independent_variables_have_next_to_none():
    generator = torch.Generator().manual_seed(0)

    def sample(count):
        return torch.randn(count, 3, generator=generator), torch.randn(count, 2, generator=generator)

    assert abs(estimate(sample, steps=50, batch_size=256)) < 0.05


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def batch(count=16):
    torch.manual_seed(1)
    return torch.randn(count, 5), torch.arange(count) % 3


@pytest.mark.parametrize("toward", ["input", "label"])
def test_the_object_is_the_bound_of_the_noisy_representation_and_ascends_afterwards(toward):
    model, (x, y) = network(), batch()
    regularizer = MutualInformation(model, weight=0.5, example_inputs=x, toward=toward, variance=0.25)
    assert list(regularizer.layers) == ["2"] and list(regularizer.parameters()) == []
    critic = regularizer._ascents["2"].critic
    given = x if toward == "input" else functional.one_hot(y, 3).float()
    for _ in range(2):
        torch.manual_seed(2)
        with torch.no_grad():
            t = model[:3](x)
        t = t + 0.5 * torch.randn_like(t)
        sign = 1 if toward == "input" else -1
        expected = sign * 0.5 * donsker_varadhan(*paired(critic(given, t)))
        before = [parameter.clone() for parameter in critic.parameters()]
        torch.manual_seed(2)
        model(x)
        loss = regularizer(y)
        assert torch.allclose(loss, expected, atol=1e-6)
        assert regularizer.estimates["2"] == pytest.approx(2 * sign * loss.item(), rel=1e-6)
        loss.backward()
        assert model[2].weight.grad.abs().sum() > 0 and model[4].weight.grad is None
        assert all(parameter.grad is None for parameter in critic.parameters())
        assert any(not torch.equal(now, then) for now, then in zip(critic.parameters(), before, strict=True))


def test_the_critic_climbs_while_the_model_stands_still_and_the_model_then_brings_it_down():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    x, y = torch.randn(128, 5), torch.arange(128) % 3
    regularizer = MutualInformation(model, weight=1.0, example_inputs=x, critic_lr=1e-2)
    found = []
    for step in range(150):
        model(x)
        loss = regularizer(y)
        found.append(loss.item())
        if step >= 100:
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model[0].parameters():
                    parameter -= 0.1 * parameter.grad
    assert found[99] > found[0] + 0.5 and found[-1] < 0.5 * found[99]


def test_convolution_layers_and_images_are_averaged_down():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 2))
    x, y = torch.randn(8, 2, 8, 8), torch.arange(8) % 2
    regularizer = MutualInformation(model, example_inputs=x, side=2, layers=["0"])
    model(x)
    assert regularizer(y).isfinite()
    sides = regularizer._ascents["0"].critic.sides
    assert (sides[0].in_features, sides[1].in_features) == (2 * 64, 3 * 4)


def test_state_goes_on_and_evaluation_is_inert():
    x, y = batch()
    pairs = []
    for _ in range(2):
        model = network()
        pairs.append((model, MutualInformation(model, example_inputs=x, layers=["0", "2"])))
    (model, one), (_, other) = pairs
    for _ in range(3):
        model(x)
        one(y)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    model.eval()
    model(x)
    assert one(y) == 0
    model.train()
    results = []
    for each, regularizer in pairs * 2:
        torch.manual_seed(len(results) // 2)
        each(x)
        results.append(regularizer(y).item())
    assert results[0] == results[1] and results[2] == results[3] and results[0] != results[2]


def test_the_critic_is_among_the_parameters_only_when_asked():
    model, (x, y) = network(), batch()
    asked = MutualInformation(model, example_inputs=x, exchange_critic=True)
    assert len(list(asked.parameters())) == len(list(Critic(5, 4).parameters()))
    model(x)
    asked(y).backward()
    assert all(parameter.grad is None for parameter in asked.parameters())


def test_mistakes_are_told():
    model, (x, y) = network(), batch()
    with pytest.raises(ValueError, match="no example_inputs"):
        MutualInformation(model)
    regularizer = MutualInformation(model, example_inputs=x)
    model(x[:1])
    with pytest.raises(ValueError, match="batch of 1 sample, expected at least 2"):
        regularizer(y[:1])
    with pytest.raises(ValueError, match="variance: got 0"):
        MutualInformation(model, example_inputs=x, variance=0.0)


def test_an_ascent_is_saved_with_its_moving_average():
    torch.manual_seed(0)
    x, t = torch.randn(8, 2), torch.randn(8, 3)
    one, other = Ascent(Critic(2, 3)), Ascent(Critic(2, 3))
    one.step(x, t)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(one.step(x, t), other.step(x, t)) and torch.equal(one.log_average, other.log_average)
