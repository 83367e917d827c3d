"""Measures of trained layers against NumPy, on layers whose answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from regularizers import Edm
from regularizers.analysis.binary import BinaryActivation, binarized, positive_means, relus, tune
from regularizers.analysis.collect import collect, rows
from regularizers.analysis.edm import edm_loss, group_means
from regularizers.analysis.information import InformationPlane, plot_plane
from regularizers.analysis.modes import density, fit_modes, plot_modes, spread_out
from regularizers.analysis.veca import veca

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("shape", [(30, 8), (6, 20), (2, 1)])
def test_veca_is_the_variance_of_the_covariances_eigenvalues(shape):
    activations = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
    eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(activations, rowvar=False, ddof=1)))
    assert veca(torch.tensor(activations)).item() == pytest.approx(eigenvalues.var(ddof=0), rel=1e-10, abs=1e-12)
    with pytest.raises(ValueError, match=r"shape \[1, 3\], expected \[K, D\] with K >= 2"):
        veca(torch.zeros(1, 3))


def edm_by_hand(activations, groups):
    means = np.stack([part.mean(1) for part in np.array_split(activations, groups, axis=1)])
    covariance = np.cov(means, ddof=1)
    return sum(covariance[i, j] ** 2 for i in range(groups) for j in range(groups) if i != j) / 2


def test_edm_penalises_covariance_between_groups():
    activations = np.random.default_rng(0).normal(size=(9, 7))
    x = torch.tensor(activations, requires_grad=True)
    assert edm_loss(group_means(x, 3)).item() == pytest.approx(edm_by_hand(activations, 3), rel=1e-10)
    assert torch.autograd.gradcheck(lambda x: edm_loss(group_means(x, 3)), x)
    slope = np.array(
        [
            (edm_by_hand(activations + step, 3) - edm_by_hand(activations - step, 3)) / 2e-6
            for step in 1e-6 * np.eye(63).reshape(63, 9, 7)
        ]
    )
    edm_loss(group_means(x, 3)).backward()
    np.testing.assert_allclose(x.grad.flatten().numpy(), slope, atol=1e-7)
    apart = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert edm_loss(apart) == 0


class Tokens(nn.Module):
    """A linear layer on each of several tokens."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(x).relu().mean(1))


def test_tokens_of_a_linear_layer_are_samples():
    torch.manual_seed(0)
    model, x = Tokens().double(), torch.randn(5, 6, 3, dtype=torch.double)
    flat = model.layer(x).detach().reshape(30, 4)
    edm = Edm(model, weight=1.0, groups=2)
    model(x)
    assert edm(torch.zeros(5, dtype=torch.long)).item() == pytest.approx(edm_by_hand(flat.numpy(), 2), rel=1e-10)
    found = collect(model, {"layer": model.layer}, [(x, torch.zeros(5))], most=1000)["layer"]
    assert torch.equal(found, flat)


def test_edm_as_a_regularizer_takes_positions_for_samples_and_layers_wide_enough():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3), nn.ReLU(), nn.Linear(3, 2))
    edm = Edm(model.double(), weight=0.5, groups=4)
    assert list(edm.layers) == ["0"]
    x = torch.randn(5, 1, 5, 5, dtype=torch.double)
    flat = rows(model[0](x).detach()).numpy()
    model(x)
    assert edm(torch.zeros(5, dtype=torch.long)).item() == pytest.approx(0.5 * edm_by_hand(flat, 4), rel=1e-10)
    model.eval()
    model(x)
    assert edm(torch.zeros(5, dtype=torch.long)) == 0
    with pytest.raises(ValueError, match=r"got groups 5, more than any layer has units: 0 \(4 units\), 3 \(3 units\)"):
        Edm(model, groups=5)
    with pytest.raises(ValueError, match="groups: got 1"):
        Edm(model, groups=1)
    alone = Edm(model.train(), groups=3, layers=["3"])
    model(x[:1])
    with pytest.raises(ValueError, match="got a batch of 1 sample of layer '3', expected at least 2"):
        alone(torch.zeros(1, dtype=torch.long))


def test_modes_are_found_where_there_are_two_and_none_is_made_up():
    generator = torch.Generator().manual_seed(0)
    upper = torch.rand(4000, generator=generator) < 0.3
    two = torch.where(upper, 3.0, -1.0) + 0.5 * torch.randn(4000, generator=generator)
    one = torch.randn(4000, generator=generator)
    modes = fit_modes(torch.stack([10 * two, one, torch.full((4000,), 2.0)], 1))
    assert modes.share[0] == pytest.approx(0.3, abs=0.02)
    assert modes.high[0][0] == pytest.approx(30, abs=0.5) and modes.low[0][0] == pytest.approx(-10, abs=0.5)
    assert modes.high[1][0] == pytest.approx(25, abs=2)
    assert modes.separation[0] == pytest.approx(8, abs=0.3)
    assert modes.separation[1] < 2 and modes.separation[2] == 0


def test_a_density_has_mass_one_and_lies_where_the_values_are():
    values = torch.randn(3000, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    grid = torch.linspace(-6, 6, 601, dtype=torch.double)
    found = density(values, grid)
    assert found.sum() * 0.02 == pytest.approx(1, abs=1e-3)
    assert found[300] == pytest.approx(1 / math.sqrt(2 * math.pi), abs=0.03)


def test_neurons_are_taken_evenly_by_rank():
    assert spread_out(torch.tensor([3.0, 1, 2, 5, 4]), 3) == [3, 0, 1]
    assert spread_out(torch.tensor([1.0, 2]), 6) == [1, 0]
    assert spread_out(torch.tensor([1.0]), 1) == [0]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def points(count=400):
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return x, (x.sum(1) > 0).long()


def accuracy(model, x, y):
    return (model(x).argmax(1) == y).float().mean().item()


def test_the_binary_activation_is_the_thesis():
    y = torch.tensor([[0.5, -1.0], [2.0, 3.0]])
    binary = BinaryActivation(torch.tensor([1.0, 1.5]))
    assert binary(y).tolist() == [[0, 0], [1, 1.5]]
    maps = y[:, :, None, None].expand(-1, -1, 2, 2)
    assert torch.equal(binary(maps), binary(y)[:, :, None, None].expand(-1, -1, 2, 2))


def test_one_bit_a_neuron_is_enough_once_the_layers_behind_are_tuned():
    model, (x, y) = network(), points()
    batches = [(x[at : at + 50], y[at : at + 50]) for at in range(0, 400, 50)]
    tune(model, list(model.parameters()), batches * 20, lr=1e-2)
    assert accuracy(model, x, y) > 0.95
    means = positive_means(model, "3", batches)
    assert torch.allclose(means, model[:3](x).relu().mean(0), atol=1e-6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed, later = binarized(model, "1", batches)
    assert [tuple(p.shape) for p in later] == [(16, 16), (16,), (2, 16), (2,)]
    assert isinstance(changed[1], BinaryActivation)
    tune(changed, later, batches * 10, lr=1e-2)
    assert accuracy(changed, x, y) > 0.85
    assert torch.equal(changed[0].weight, model[0].weight) and not torch.equal(changed[2].weight, model[2].weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"without nn\.ReLU modules \(it has Linear, Tanh\)"):
        relus(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))


def test_activations_are_collected_in_evaluation_mode_with_positions_spread():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout(), nn.Flatten(), nn.Linear(18, 3))
    x = torch.randn(4, 1, 3, 3)
    batches = [(x[:3], torch.zeros(3)), (x[3:], torch.zeros(1))]
    found = collect(model, {"0": model[0], "3": model[3]}, batches, most=12)
    model.eval()
    assert torch.allclose(found["0"], model[0](x).flatten(2)[:, :, [0, 3, 6]].mT.flatten(0, 1))
    assert torch.allclose(found["3"], model(x)) and rows(x).shape == (36, 1)


def test_the_information_plane_tells_a_layer_that_knows_the_label_from_one_that_forgot_it():
    model, (x, y) = network(), points(800)
    with torch.no_grad():
        model[0].weight.copy_(torch.ones(16, 2))
        model[2].weight.zero_()
    plane = InformationPlane(model, {"0": model[0], "2": model[2]}, x, y, classes=2, steps=150)
    kept, forgot = plane.measure(0)
    assert 0.3 < kept.about_label <= math.log(2) + 0.05 and kept.about_input > 0.5
    assert forgot.about_label < 0.05 and forgot.about_input < 0.05
    assert [point.layer for point in plane.points] == ["0", "2"]
    with pytest.raises(ValueError, match="got 3 samples, expected at least 4"):
        InformationPlane(model, {"0": model[0]}, x[:3], y[:3], classes=2)


def test_pictures_are_drawn(tmp_path):
    torch.manual_seed(0)
    plot_modes(
        {
            "one": torch.randn(50, 3),
            "other": torch.zeros(50, 8).index_fill_(1, torch.tensor([2]), 1.0) + torch.randn(50, 8),
        },
        tmp_path / "modes.png",
    )
    model, (x, y) = network(), points(40)
    plane = InformationPlane(model, {"0": model[0]}, x, y, classes=2, steps=2)
    plane.measure(0)
    plane.measure(5)
    plot_plane(plane.points, tmp_path / "plane.png", 2)
    for name in ("modes.png", "plane.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
