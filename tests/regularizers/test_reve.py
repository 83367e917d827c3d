"""REVE against a computation of its own in NumPy and SciPy, its gradients, options, and where it looks."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from regularizers import Reve
from regularizers.densities import log_density, mixture_log_density
from regularizers.reve import max_plus_min, reve_loss
from regularizers.row_space import FactoredLinear, orthogonal, row_space

pytestmark = pytest.mark.timeout(60)
K, D, C, S = 7, 6, 3, 4


def drawn(classes=C, seed=0):
    rng = np.random.default_rng(seed)
    h, weight, bias = rng.normal(size=(K, D)), rng.normal(size=(classes, D)), rng.normal(size=classes)
    return h, weight, bias, rng.integers(0, classes, K), 0.1 * rng.normal(size=(S, K, D))


def tensors(h, weight, bias, targets, noise):
    leaves = [torch.tensor(array, requires_grad=True) for array in (h, weight, bias)]
    return (*leaves, torch.tensor(targets), torch.tensor(noise))


def by_hand(h, weight, bias, targets, noise, variable="z", mixture=True):
    """The value of (5.13) and its gradients for h, W and b, from the formulas and SciPy's densities."""
    y = h + noise
    projection = np.linalg.pinv(weight) @ weight if variable == "z" else np.eye(D)
    z = y @ projection
    scores = z @ weight.T + bias
    delta = special.softmax(scores, -1)
    value = -np.log(np.take_along_axis(delta, np.broadcast_to(targets[:, None], (S, K, 1)), -1)).sum()
    delta[:, np.arange(K), targets] -= 1
    slope = delta @ weight
    for i in range(D):
        flat = z[..., i]
        if mixture:
            pi = 1 / (1 + np.exp(-flat))
            alpha, shares = pi.mean(), (pi, 1 - pi)
            modes = []
            for share in shares:
                mean = (share * flat).sum() / share.sum()
                modes.append((mean, (share * (flat - mean) ** 2).sum() / share.sum()))
            parts = [
                a * stats.norm.pdf(flat, mean, np.sqrt(variance))
                for a, (mean, variance) in zip((alpha, 1 - alpha), modes, strict=True)
            ]
            density = sum(parts)
            away = sum(part * (flat - mean) / variance for part, (mean, variance) in zip(parts, modes, strict=True))
            slope[..., i] += away / density
        else:
            mean, variance = flat.mean(), flat.var()
            density = stats.norm.pdf(flat, mean, np.sqrt(variance))
            slope[..., i] += (flat - mean) / variance
        value -= np.log(density).sum()
    count = K * S
    # d/dz of everything, through z = P (h + noise) alone; W and b are reached by the classifier's term only.
    of_h = slope.sum(0) @ projection / count
    of_weight = np.einsum("skc,skd->cd", delta, z) / count
    return value / count, of_h, of_weight, delta.sum((0, 1)) / count


@pytest.mark.parametrize("variable", ["z", "y"])
@pytest.mark.parametrize("mixture", [True, False])
@pytest.mark.parametrize("classes", [C, 1, D + 2])
def test_value_and_gradients_are_those_of_the_formula(variable, mixture, classes):
    given = drawn(classes)
    h, weight, bias, targets, noise = tensors(*given)
    loss = reve_loss(h, weight, bias, targets, noise, variable=variable, mixture=mixture, floor=1e-30)
    loss.backward()
    value, *slopes = by_hand(*given, variable, mixture)
    assert loss.item() == pytest.approx(value, rel=1e-10)
    for leaf, slope in zip((h, weight, bias), slopes, strict=True):
        np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-10, atol=1e-13 * abs(slope).max())


def test_the_classifiers_gradient_is_taken_at_z_and_not_at_y():
    h, weight, bias, targets, noise = tensors(*drawn())
    reve_loss(h, weight, bias, targets, noise).backward()
    basis = row_space(weight.detach())
    outside = weight.grad - weight.grad @ basis @ basis.mT
    assert outside.abs().max() < 1e-14
    at_y = torch.autograd.grad(reve_loss(h, weight, bias, targets, noise, variable="y"), weight)[0]
    assert (at_y - at_y @ basis @ basis.mT).abs().max() > 1e-3


def test_log_density_is_scipys_and_does_not_underflow():
    rng = np.random.default_rng(1)
    z = np.concatenate([rng.normal(-3, 0.5, (40, 2)), rng.normal(2, 1.0, (60, 2))])
    alpha, high, low = (
        np.array([0.6, 0.25]),
        (np.array([2.0, 1.0]), np.array([1.0, 0.3])),
        (np.full(2, -3.0), np.ones(2)),
    )
    found = mixture_log_density(
        torch.tensor(z),
        torch.tensor(special.logit(alpha)),
        tuple(map(torch.tensor, high)),
        tuple(map(torch.tensor, low)),
    )
    logs = [
        np.log(share) + stats.norm.logpdf(z, mean, np.sqrt(variance))
        for share, (mean, variance) in ((alpha, high), (1 - alpha, low))
    ]
    np.testing.assert_allclose(found.numpy(), special.logsumexp(logs, axis=0), rtol=1e-12)
    far = torch.full((3, 1), 1e3, dtype=torch.double)
    assert (
        mixture_log_density(far, *(torch.zeros(1).double(),), *[(torch.zeros(1), torch.ones(1))] * 2).isfinite().all()
    )


def test_gradients_of_the_density_with_fixed_modes_are_right():
    torch.manual_seed(0)
    z = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    alpha, *modes = torch.rand(5, 3, dtype=torch.double) + 0.5
    assert torch.autograd.gradcheck(lambda z: mixture_log_density(z, alpha - 1, modes[:2], modes[2:]), z)
    h, weight, bias, targets, noise = tensors(*drawn())

    def classified(h, weight, bias):  # with the density cancelled, whose fit follows a numerical difference
        basis = row_space(weight.detach())
        z = ((h + noise) @ basis @ basis.mT).flatten(0, 1)
        return reve_loss(h, weight, bias, targets, noise) + log_density(z).sum() / len(z)

    assert torch.autograd.gradcheck(lambda h, bias: classified(h, weight.detach(), bias), (h, bias))


def test_an_empty_mode_and_a_constant_coordinate_stay_finite():
    z = torch.cat([torch.full((20, 1), 200.0), torch.zeros(20, 1), torch.randn(20, 1)], 1).requires_grad_()
    found = log_density(z)
    found.sum().backward()
    assert found.isfinite().all() and z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("classes", "rank"), [(3, 3), (10, 9), (8, 2), (2, 0)])
def test_the_basis_spans_the_row_space_whatever_its_rank(dtype, classes, rank):
    torch.manual_seed(0)
    weight = (torch.randn(classes, rank, dtype=torch.double) @ torch.randn(rank, 20, dtype=torch.double)).to(dtype)
    basis = row_space(weight).double()
    expected = np.linalg.pinv(weight.double().numpy(), rcond=1e-5) @ weight.double().numpy()
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose((basis @ basis.mT).numpy(), expected, atol=tolerance)


def test_orthogonal_is_the_nearest_orthonormal_matrix():
    torch.manual_seed(0)
    start = torch.linalg.qr(torch.randn(9, 4, dtype=torch.double))[0]
    left, _, right = torch.linalg.svd(
        moved := start + 0.05 * torch.randn(9, 4, dtype=torch.double), full_matrices=False
    )
    assert torch.allclose(orthogonal(moved), left @ right, atol=1e-10)
    assert orthogonal(100 * moved).isfinite().all()


def network(head=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, D), nn.ReLU(), head or nn.Linear(D, C))


def test_the_object_adds_noise_of_its_variance_to_the_representation_before_the_classifier():
    model, x, y = network(), torch.randn(K, 5), torch.arange(K) % C
    reve = Reve(model, weight=0.5, draws=S, variance=0.0)
    assert list(reve.layers) == ["2"]
    h = model[1](model[0](x))
    model(x)
    expected = 0.5 * reve_loss(h, model[2].weight, model[2].bias, y, torch.zeros(1, K, D))
    assert torch.allclose(reve(y), expected, rtol=1e-5)
    # With noise: the same law as of noise in all D coordinates, whose mean is estimated by many draws.
    many = Reve(model, weight=1.0, draws=4000, variance=0.04)
    model(x)
    ours = many(y)
    noise = 0.2 * torch.randn(4000, K, D)
    assert torch.allclose(ours, reve_loss(h, model[2].weight, model[2].bias, y, noise), atol=0.02)


def test_a_convolution_head_is_regularized_position_by_position():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, D, 3), nn.ReLU(), nn.Conv2d(D, C, 1), nn.Flatten(2))
    x, y = torch.randn(K, 2, 5, 5), torch.arange(K) % C
    reve = Reve(model, weight=1.0, variance=0.0, draws=1)
    h = model[1](model[0](x)).flatten(2).mT
    model(x)
    basis = row_space(model[2].weight.detach().flatten(1))
    z = h @ basis @ basis.mT
    scores = z @ model[2].weight.flatten(1).mT + model[2].bias
    expected = functional.cross_entropy(max_plus_min(scores), y) - log_density(z.flatten(0, 1)).sum() / (K * 9)
    assert torch.allclose(reve(y), expected, rtol=1e-4)


def test_learned_factors_stay_orthogonal_and_need_no_decomposition(monkeypatch):
    model = network()
    x, y = torch.randn(K, 5), torch.arange(K) % C
    before = model(x)
    model[2] = FactoredLinear(model[2])
    assert torch.allclose(model(x), before, atol=1e-5)
    assert sum(p.numel() for p in model[2].parameters()) == C * D + C + C**2 + C
    reve = Reve(model, weight=0.1)
    monkeypatch.setattr("regularizers.reve.row_space", None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(20):
        loss = functional.cross_entropy(model(x), y) + reve(y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model(x)
    for factor in (model[2].left, model[2].right):
        assert torch.allclose(factor.mT @ factor, torch.eye(C), atol=1e-4)
    assert loss.item() < 10
    with pytest.raises(ValueError, match="6 inputs and 7 outputs"):
        FactoredLinear(nn.Linear(6, 7))


def test_a_factored_classifier_may_be_called_twice_before_the_backward_pass():
    torch.manual_seed(0)
    layer, (x, y) = FactoredLinear(nn.Linear(6, 3)).double(), torch.randn(2, 4, 6).double()
    gradients = []
    for parts in ([x, y], [torch.cat((x, y))]):
        loss = sum(layer(part).square().sum() for part in parts)
        gradients.append(torch.autograd.grad(loss, [layer.left, layer.scale, layer.right]))
    for twice, once in zip(*gradients, strict=True):
        torch.testing.assert_close(twice, once, rtol=1e-9, atol=1e-12)


class WithoutFloat64(TorchDispatchMode):
    """Refuses what an Apple GPU refuses."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        for tensor in found if isinstance(found, tuple) else (found,):
            if isinstance(tensor, torch.Tensor) and (tensor.device.type, tensor.dtype) == ("mps", torch.float64):
                raise TypeError(f"{function}: the MPS framework doesn't support float64")
        return found


@pytest.mark.parametrize(("classes", "features"), [(3, 8), (8, 3)])
def test_a_device_without_float64_has_the_basis_found_elsewhere(classes, features):
    with FakeTensorMode(), WithoutFloat64():
        weight = torch.empty(classes, features, device="mps")
        with pytest.raises(TypeError, match="float64"):
            weight.double()
        basis = row_space(weight)
    assert (basis.device, basis.dtype, tuple(basis.shape)) == (weight.device, torch.float32, (features, 3))


def test_the_basis_is_refreshed_every_n_batches_and_kept_in_the_state():
    model, x, y = network(), torch.randn(K, 5), torch.arange(K) % C
    reve = Reve(model, refresh=3, draws=2)
    bases = []
    for _ in range(5):
        model(x)
        reve(y)
        bases.append(reve._basis)
        with torch.no_grad():
            model[2].weight.add_(torch.randn(C, D))
    assert bases[0].equal(bases[2]) and not bases[2].equal(bases[3]) and bases[3].equal(bases[4])
    other = Reve(model, refresh=3, draws=2)
    other.load_state_dict(reve.state_dict())
    for _ in range(2):
        torch.manual_seed(5)
        model(x)
        first = reve(y)
        torch.manual_seed(5)
        model(x)
        assert torch.equal(first, other(y))


def test_evaluation_adds_nothing_and_changes_nothing():
    model = network().eval()
    reve = Reve(model, refresh=2)
    model(torch.randn(K, 5))
    assert reve(torch.zeros(K, dtype=torch.long)) == 0
    assert reve.state_dict() == {"_extra_state": {"batches": 0, "basis": None}}


def test_half_precision_and_compilation_give_the_same_loss():
    model, x, y = network(), torch.randn(K, 5), torch.arange(K) % C
    reve = Reve(model, variance=0.0)
    model(x)
    plain = reve(y)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
        mixed = reve(y)
    assert mixed.dtype == torch.float32 and torch.allclose(mixed, plain, rtol=0.05)
    compiled = torch.compile(reve_loss, backend="aot_eager", fullgraph=True)
    given = tensors(*drawn())
    assert torch.allclose(compiled(*given), reve_loss(*given), rtol=1e-12)


def test_models_without_a_classifier_and_wrong_choices_are_refused():
    with pytest.raises(ValueError, match=r"got '0' \(Conv2d\) at the end of Sequential, expected a linear layer"):
        Reve(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    with pytest.raises(ValueError, match="got no linear layer"):
        Reve(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="got layers 0, 2, expected the one"):
        Reve(network(), layers=["*"])
    with pytest.raises(ValueError, match="fits no layer; expected one that fits any of: 0, 2"):
        Reve(network(), layers=["head"])
    with pytest.raises(ValueError, match="variance: got -1"):
        Reve(network(), variance=-1.0)


class Backwards(nn.Module):
    """Defines its classifier first."""

    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(D, C), nn.Linear(5, D)

    def forward(self, x):
        return self.head(self.body(x).relu())


def test_a_classifier_that_is_defined_before_the_rest_has_to_be_named():
    model, x, y = Backwards(), torch.randn(K, 5), torch.arange(K) % C
    reve = Reve(model)
    model(x)
    with pytest.raises(ValueError, match=r"'head' called after 'body'.*layers: \[NAME\]"):
        reve(y)
    reve.remove()
    named = Reve(model, layers=["head"])
    model(x)
    assert named(y).isfinite()


def test_activations_that_are_not_finite_name_the_layer():
    model = network()
    reve = Reve(model)
    model(torch.full((K, 5), torch.nan))
    with pytest.raises(ValueError, match="layer '2' that are NaN"):
        reve(torch.zeros(K, dtype=torch.long))


def test_all_of_the_representation_can_be_regularized_instead_of_what_the_classifier_sees():
    model, x, y = network(), torch.randn(K, 5), torch.arange(K) % C
    reve = Reve(model, variable="y", draws=3, variance=0.3, weight=1.0)
    model(x)
    torch.manual_seed(5)
    found = reve(y)
    head, h = model[-1], model[:-1](x)
    torch.manual_seed(5)
    noise = 0.3**0.5 * torch.randn(3, *h.shape)
    torch.testing.assert_close(found, reve_loss(h, head.weight, head.bias, y, noise, variable="y"))


def test_a_linear_classifier_of_a_grid_of_positions_is_one_of_a_row_of_them():
    grid, row = nn.Sequential(nn.Linear(5, D), nn.Linear(D, C)), nn.Sequential(nn.Linear(5, D), nn.Linear(D, C))
    row.load_state_dict(grid.state_dict())
    x, y = torch.randn(K, 2, 3, 5), torch.arange(K) % C
    losses = []
    for model, inputs in ((grid, x), (row, x.flatten(1, 2))):
        reve = Reve(model)
        model(inputs)
        torch.manual_seed(5)
        losses.append(reve(y))
    torch.testing.assert_close(*losses)
