"""The variance constancy loss against NumPy, the paper's two theorems, beta."""

import numpy as np
import pytest
import torch
from torch import nn

from regularizers import VarianceConstancy
from regularizers.vcl import FLOOR, vcl_loss

pytestmark = pytest.mark.timeout(60)


def loss_of(x: np.ndarray, beta: np.ndarray, n: int) -> tuple[float, np.ndarray, np.ndarray]:
    """(17) with its gradients, from the definition of the unbiased variance."""
    halves = [x[:n], x[n : 2 * n]]
    means = [half.sum(0) / n for half in halves]
    s1, s2 = (((half - mean) ** 2).sum(0) / (n - 1) for half, mean in zip(halves, means, strict=True))
    ratio = s1 / (s2 + beta)
    of_s1 = -2 * (1 - ratio) / (s2 + beta) / beta.size
    of_s2 = 2 * (1 - ratio) * ratio / (s2 + beta) / beta.size
    gradient = np.zeros_like(x)
    gradient[:n] = of_s1 * 2 * (halves[0] - means[0]) / (n - 1)
    gradient[n : 2 * n] = of_s2 * 2 * (halves[1] - means[1]) / (n - 1)
    return ((1 - ratio) ** 2).mean(), gradient, of_s2


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("shape", [(8, 5), (7, 3, 2, 4)])
def test_value_and_gradients_agree_with_numpy(shape, n):
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.double, requires_grad=True)
    beta = (0.5 + torch.rand(shape[1:], dtype=torch.double)).requires_grad_()
    loss = vcl_loss(x, beta, n)
    loss.backward()
    value, of_x, of_beta = loss_of(x.detach().numpy(), beta.detach().numpy(), n)
    assert float(loss.detach()) == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(x.grad.numpy(), of_x, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(beta.grad.numpy(), of_beta, rtol=1e-10, atol=1e-15)


def test_its_gradients_are_right():
    torch.manual_seed(0)
    x, beta = torch.randn(6, 4, dtype=torch.double, requires_grad=True), torch.ones(4, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda a, b: vcl_loss(a, b, 3), (x, beta.requires_grad_()))


def test_it_is_0_where_the_first_variance_is_the_second_plus_beta():
    first = torch.tensor([[2.0], [0.0]]).double()
    second = torch.tensor([[1.0], [1.0]]).double()
    assert vcl_loss(torch.cat([first, second]), torch.full((1,), 2.0).double(), 2) == 0


@pytest.mark.parametrize(("n", "size"), [(2, 3), (1, 9), (5, 9)])
def test_a_batch_that_is_too_small_is_refused(n, size):
    with pytest.raises(ValueError, match=f"got a batch of {size} and n = {n}, expected"):
        vcl_loss(torch.randn(size, 3), torch.ones(3), n)


def deviation(x: torch.Tensor, n: int) -> float:
    """E (1 - s^2 / sigma^2)^2 (6), the quantity of the theorems, over disjoint samples of n."""
    variances = x[: len(x) // n * n].reshape(-1, n).var(1)
    return float((1 - variances / x.var()).square().mean())


def test_two_equal_modes_have_the_least_variance_of_variances():
    """Theorem 1: among distributions of one variance, a symmetric Bernoulli is the minimum."""
    torch.manual_seed(0)
    count, n = 400_000, 10
    two = torch.randint(2, (count,)).double()
    others = {
        "uneven": (torch.rand(count) < 0.3).double(),
        "three modes": torch.randint(3, (count,)).double(),
        "uniform": torch.rand(count).double(),
        "normal": torch.randn(count).double(),
        "laplace": torch.distributions.Laplace(0.0, 1.0).sample((count,)).double(),
    }
    least = deviation(two, n)
    assert least == pytest.approx(1 / n - (n - 3) / (n * (n - 1)), rel=0.05)  # (1) at kurtosis 1
    for name, sample in others.items():
        assert deviation(sample, n) > 1.05 * least, name


@pytest.mark.parametrize(("p", "separates"), [(0.12, False), (0.5, True), (0.3, True)])
def test_descent_joins_a_rare_cluster_and_separates_frequent_ones(p, separates):
    """Theorem 2: a unit on two Gaussians turns towards their difference for p above 0.2113, away from it below."""
    torch.manual_seed(3)
    weight = nn.Parameter(torch.tensor([1.0, 1.0]).double())
    optimizer = torch.optim.Adam([weight], lr=0.03)
    beta = torch.full((200,), 1e-6).double()
    for _ in range(150):
        member = (torch.rand(20_000, 1) < p).double()
        x = torch.randn(20_000, 2).double() + member * torch.tensor([4.0, 0.0]).double()
        loss = vcl_loss((x @ weight).reshape(100, 200), beta, 50)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    along = float(weight.detach()[0].abs() / weight.detach().norm())
    assert (along > 0.9) if separates else (along < 0.3), along


def test_the_kurtosis_turns_at_the_threshold():
    """kappa = 3 + a (1 - 6a) b^2 / (a b + w)^2 with a = p (1 - p) (9): the sign of 1 - 6a changes at 0.2113."""

    def kurtosis(p: float, between: float) -> float:
        a = p * (1 - p)
        second = a * between + 1
        return (a * (1 - 3 * a) * between**2 + 6 * a * between + 3) / second**2

    threshold = (1 - (1 / 3) ** 0.5) / 2
    assert threshold == pytest.approx(0.2113, abs=5e-5)
    assert kurtosis(threshold - 0.01, 9.0) > 3 > kurtosis(threshold + 0.01, 9.0)
    assert kurtosis(threshold, 9.0) == pytest.approx(3)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 4))


def test_beta_is_1_for_each_unit_learns_and_stays_positive():
    model, x = network(), torch.randn(8, 2, 6, 6)
    vcl = VarianceConstancy(model, n=2, weight=1.0, example_inputs=x)
    assert [tuple(one.shape) for one in vcl.parameters()] == [(3, 4, 4), (5,)]
    assert all((one == 1).all() for one in vcl.parameters())
    optimizer = torch.optim.SGD(vcl.parameters(), lr=1e4)
    for _ in range(5):
        model(x)
        vcl(torch.zeros(8)).backward()
        optimizer.step()
    model(x)
    assert all((one >= FLOOR).all() for one in vcl.parameters())
    assert any((one != 1).any() for one in vcl.parameters())


def test_only_the_first_2n_samples_get_a_gradient_from_it():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(9, 3, requires_grad=True)
    vcl = VarianceConstancy(model, n=3, weight=1.0, example_inputs=x)
    model(x)
    vcl(torch.zeros(9)).backward()
    assert (x.grad[:6] != 0).any()
    assert (x.grad[6:] == 0).all()


def test_what_it_cannot_work_with_is_said():
    x = torch.randn(8, 2, 6, 6)
    with pytest.raises(ValueError, match="got no example_inputs, expected a batch"):
        VarianceConstancy(network())
    with pytest.raises(ValueError, match="got a batch of 8 and n = 5, expected a batch of at least 2n = 10"):
        VarianceConstancy(network(), n=5, example_inputs=x)
    model = network()
    VarianceConstancy(model, n=4, example_inputs=x)
    with pytest.raises(ValueError, match="got a batch of 7 and n = 4"):
        model(x[:7])
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    VarianceConstancy(model, n=2, example_inputs=x)
    with pytest.raises(ValueError, match=r"got an output \(8, 3, 6, 6\) of layer '0', expected samples of a shape"):
        model(torch.randn(8, 2, 8, 8))
