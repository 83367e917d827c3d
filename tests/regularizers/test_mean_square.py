"""The control regularizer: its value, its gradient, and when it looks."""

import pytest
import torch
from torch import nn

from regularizers import MeanSquare
from regularizers.mean_square import mean_square_loss


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()


class Twice(nn.Module):
    """Calls its layer on the first two samples and on the others."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.layer(x[:2]), self.layer(x[2:])])


def test_it_is_the_sum_over_layers_of_the_mean_square_and_leaves_the_logits_out():
    model = network()
    penalty = MeanSquare(model, weight=0.5)
    inputs = torch.randn(7, 6, dtype=torch.double)
    model(inputs)
    first = model[0](inputs)
    second = model[2](torch.relu(first))
    model(inputs)
    expected = 0.5 * ((first**2).mean() + (second**2).mean())
    assert torch.allclose(penalty(torch.zeros(7, dtype=torch.long)), expected, rtol=1e-12)


def test_its_gradient_is_right():
    assert torch.autograd.gradcheck(mean_square_loss, [torch.randn(4, 3, dtype=torch.double, requires_grad=True)])
    assert mean_square_loss(torch.zeros(3)) == 0


def test_calls_of_a_layer_count_as_one_batch():
    model = network()
    penalty = MeanSquare(model, weight=1.0, layers=["0"])
    inputs = torch.randn(7, 6, dtype=torch.double)
    model(inputs)
    expected = penalty(torch.zeros(7, dtype=torch.long))
    twice = nn.Sequential(Twice(model[0]))
    penalty = MeanSquare(twice, weight=1.0, layers=["0.layer"])
    twice(inputs)
    assert torch.allclose(penalty(torch.zeros(7, dtype=torch.long)), expected, rtol=1e-12)


def test_it_sees_training_passes_only_and_each_once():
    model = network()
    penalty = MeanSquare(model)
    targets = torch.zeros(2, dtype=torch.long)
    model.eval()
    model(torch.randn(2, 6, dtype=torch.double))
    assert penalty(targets) == 0
    with pytest.raises(ValueError, match="expected a forward pass"):
        penalty(targets)
    model.train()
    model(torch.randn(2, 6, dtype=torch.double))
    penalty(targets)
    with pytest.raises(ValueError, match="expected a forward pass"):
        penalty(targets)
    penalty.remove()
    model(torch.randn(2, 6, dtype=torch.double))
    with pytest.raises(ValueError, match="expected a forward pass"):
        penalty(targets)


def test_wrong_options_and_models_are_refused():
    with pytest.raises(ValueError, match="weight: got -1"):
        MeanSquare(network(), weight=-1.0)
    with pytest.raises(ValueError, match="without linear or convolution layers"):
        MeanSquare(nn.Sequential(nn.Linear(3, 2)))
