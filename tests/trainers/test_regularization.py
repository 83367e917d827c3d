"""A run's regularizers of the user's own: what they are given, and what is said where they are none."""

import pytest
import torch
from torch import nn

from configs import load
from regularizers import Regularizer
from regularizers.base import RegularizerConfig
from trainers import data as datasets
from trainers import regularization
from trainers.schema import Run

RUN = """
name: tiny
data: {name: digits, batch_size: 16}
model: {name: mlp, hidden: [8]}
optimizer: {name: sgd}
exchange: {method: none}
train: {steps: 1}
"""


class OwnConfig(RegularizerConfig):
    power: float = 2.0


class Own(Regularizer):
    """The mean of a power of the outputs."""

    Options = OwnConfig

    def losses(self, seen, targets):
        return {name: torch.cat(calls).abs().pow(self.options.power).mean() for name, calls in seen.items()}


class Narrow(Own):
    def __init__(self, model):
        super().__init__(model)


def made(folder, written):
    (folder / "run.yaml").write_text(RUN + f"regularizers: [{written}]\n")
    run = load(folder / "run.yaml", [], Run).config
    data = datasets.build(run.data)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    (found,) = regularization.build(run, model, data)
    return model, found


def test_its_options_and_a_batch_reach_it(tmp_path):
    model, own = made(tmp_path, f"{{name: '{__name__}:Own', weight: 0.5, power: 3.0}}")
    x = torch.randn(4, 1, 8, 8)
    model(x)
    expected = 0.5 * model[1](x.flatten(1)).abs().pow(3).mean()
    model(x)
    torch.testing.assert_close(own(torch.zeros(4, dtype=torch.long)), expected)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{name: 'torch.nn:Flatten'}", "regularizer 'torch.nn:Flatten' is .*, expected a subclass of .*Regularizer"),
        ("{name: 'math:pi'}", "regularizer 'math:pi' is 3.14"),
        (
            f"{{name: '{__name__}:Narrow', weight: 0.1}}",
            "unexpected keyword argument 'weight'; got .*expected options of",
        ),
        (f"{{name: '{__name__}:Own', powr: 1.0}}", "powr: got an unknown key, .*did you mean 'power'"),
    ],
)
def test_what_is_none_is_refused(tmp_path, written, said):
    with pytest.raises(ValueError, match=said):
        made(tmp_path, written)
