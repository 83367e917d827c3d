"""Every model with every activation and normalization on images of several sizes, sizes that are named, bad input."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional

from configs.base import Custom
from trainers.models import MODELS, MaxMin, build, check_logits, parameter_count
from trainers.models.base import Activation, Normalization
from trainers.models.layers import groups

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 28, 28), (3, 32, 32)]
SMALL = {
    "alexnet": {"width": 0.1},
    "cnn": {"width": 0.25},
    "elu11": {"width": 0.1},
    "inception": {"width": 0.1},
    "lenet": {"width": 0.1},
    "mlp": {"width": 0.25},
    "vgg16": {"width": 0.1},
    "wide_resnet": {"depth": 10, "k": 1},
}
CONVOLUTIONAL = sorted(set(SMALL) - {"mlp"})
ADAPTER = TypeAdapter(MODELS.field())


def batch(shape, size=8):
    return torch.randn(size, *shape), torch.arange(size) % 10


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "activation", "normalization"),
    list(itertools.product(SMALL, get_args(Activation), get_args(Normalization))),
)
def test_logits_have_a_column_per_class_and_a_step_lowers_the_loss(name, activation, normalization):
    options = {"activation": activation, "normalization": normalization, "match_parameters": False}
    config = MODELS.config(name)(**options, **SMALL[name])
    for shape in SHAPES:
        torch.manual_seed(0)
        model = build(config, shape, 10)
        inputs, targets = batch(shape)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        logits = model(inputs)
        assert logits.shape == (8, 10)
        before = functional.cross_entropy(logits, targets)
        before.backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
        optimizer.step()
        after = functional.cross_entropy(model(inputs), targets)
        assert after.isfinite() and after < before, (shape, before, after)


def test_every_model_is_covered_here():
    assert MODELS.names() == sorted(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_the_weights(name):
    config = MODELS.config(name)(activation="maxmin", **SMALL[name])
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([p.detach().flatten() for p in build(config, (3, 28, 28), 10).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("config", "shape", "count"),
    [
        ({"name": "cnn"}, (3, 28, 28), 197_898),
        ({"name": "cnn"}, (3, 32, 32), 197_898),
        ({"name": "mlp", "hidden": [1520, 1520]}, (3, 32, 32), 6_998_090),
        ({"name": "alexnet"}, (3, 28, 28), 1_110_658),
        ({"name": "lenet", "kernels": [5, 3, 3], "pool": 2}, (3, 28, 28), 88_970),
        ({"name": "inception"}, (3, 28, 28), 1_651_114),
        ({"name": "wide_resnet", "depth": 16, "k": 4}, (3, 32, 32), 2_748_890),
        ({"name": "elu11"}, (3, 32, 32), 1_641_938),
        ({"name": "vgg16", "normalization": "none", "hidden": [4096, 4096]}, (3, 224, 224), 134_301_514),
    ],
)
def test_parameter_counts_at_the_sizes_in_use(config, shape, count):
    with torch.device("meta"):
        assert parameter_count(build(ADAPTER.validate_python(config), shape, 10)) == count


def test_wide_resnet_28_10_has_36_5_million_parameters():
    with torch.device("meta"):
        count = parameter_count(build(MODELS.config("wide_resnet")(depth=28, k=10), (3, 32, 32), 10))
    assert round(count / 1e6, 1) == 36.5


@pytest.mark.parametrize("shape", [(16,), (3, 4), (1, 8, 8)])
def test_mlp_takes_samples_of_any_shape(shape):
    assert build(MODELS.config("mlp")(), shape, 3)(torch.randn(5, *shape)).shape == (5, 3)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_images_need_not_be_square(name):
    assert build(MODELS.config(name)(**SMALL[name]), (2, 9, 30), 4)(torch.randn(2, 2, 9, 30)).shape == (2, 4)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutional_models_refuse_vectors_and_tiny_images(name):
    config = MODELS.config(name)(**SMALL[name])
    with pytest.raises(ValueError, match=rf"{name}.*\(16,\).*expected images.*mlp"):
        build(config, (16,), 10)
    with pytest.raises(ValueError, match=rf"{name}.*\(1, 28, 2\).*at least \d.*enlarge"):
        build(config, (1, 28, 2), 10)


@pytest.mark.parametrize(("shape", "classes"), [((), 10), ((3, 0, 3), 10), ((4,), 1)])
def test_impossible_data_are_refused(shape, classes):
    with pytest.raises(ValueError, match=r"got .*expected"):
        build(MODELS.config("mlp")(), shape, classes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "wide_resnet", "depth": 17}, r"got 17, expected 6n \+ 4 .*16 or 22"),
        ({"name": "wide_resnet", "depth": 4}, r"got 4, expected 6n \+ 4 .*10 or 16"),
        ({"name": "lenet", "kernels": [5, 5]}, "2 kernels for 3 filters"),
        ({"name": "lenet", "filters": [8]}, "3 kernels for 1 filters"),
        ({"name": "lenet", "kernels": [5, 4, 3]}, "odd"),
        ({"name": "cnn", "width": 0.0}, "greater than 0"),
        ({"name": "cnn", "dropout": 1.0}, "less than 1"),
        ({"name": "cnn", "activation": "tanh"}, "maxmin"),
        ({"name": "mlp", "hidden": [0]}, "greater than or equal to 1"),
        ({"name": "mlp", "depth": 3}, "Extra inputs"),
    ],
)
def test_bad_options_are_refused_beside_their_field(config, message):
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(config)


@pytest.mark.parametrize("name", SMALL)
def test_dropout_is_random_in_training_only_and_spares_the_data(name):
    torch.manual_seed(0)
    model = build(MODELS.config(name)(dropout=0.5, normalization="none", **SMALL[name]), (1, 8, 8), 10)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    inputs, _ = batch((1, 8, 8))
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))
    drops = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(drops) == (3 if name == "wide_resnet" else min(2, len(linears)))


def test_selu_has_alpha_dropout():
    model = build(MODELS.config("mlp")(activation="selu", dropout=0.1), (8,), 2)
    assert sum(isinstance(module, nn.AlphaDropout) for module in model.modules()) == 2


def test_no_bias_stands_before_a_normalization():
    model = build(MODELS.config("cnn")(normalization="batch"), (3, 28, 28), 10)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [layer.bias is not None for layer in layers] == [False] * 5 + [True]


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (7, 1), (8, 2), (23, 1), (64, 16), (256, 32), (320, 32)])
def test_groups_divide_the_channels(channels, expected):
    assert groups(channels) == expected


def test_the_first_loss_is_near_that_of_guessing():
    torch.manual_seed(0)
    for name, options in SMALL.items():
        model = build(MODELS.config(name)(**options), (3, 28, 28), 10)
        inputs, targets = batch((3, 28, 28), size=20)
        assert abs(functional.cross_entropy(model(inputs), targets).item() - 2.303) < 0.5, name


def test_cnn_learns_at_a_learning_rate_of_a_tenth():
    torch.manual_seed(1)
    model = build(MODELS.config("cnn")(), (1, 8, 8), 4)
    patterns = torch.randn(4, 1, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
    losses = []
    for _ in range(300):
        targets = torch.randint(4, (16,))
        loss = functional.cross_entropy(model(patterns[targets] + 0.5 * torch.randn(16, 1, 8, 8)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.1


class OwnModel(nn.Module):
    def __init__(self, units: int, classes: int, shape: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[0] * units, classes)


def free(**options):
    return nn.Linear(options["width"], 1)


def no_module(classes):
    return [classes]


NUMBER = 3


def test_a_users_model_gets_its_options_and_the_data_it_asks_for():
    model = build(Custom(name=f"{__name__}:OwnModel", units=2), (6,), 3)
    assert (model.layer.in_features, model.layer.out_features) == (12, 3)
    assert build(Custom(name=f"{__name__}:free", width=5), (6,), 3).in_features == 5
    assert build(Custom(name=f"{__name__}:OwnModel", units=2, classes=9), (6,), 3).layer.out_features == 9
    config = ADAPTER.validate_python({"name": f"{__name__}:OwnModel", "units": 1})
    assert build(config, (4,), 2).layer.in_features == 4


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("no_module", {}, "gave a list, expected a torch.nn.Module"),
        ("OwnModel", {"unit": 2}, "OwnModel.*expected options of"),
        ("NUMBER", {}, "is a int, expected a class or function"),
        ("Absent", {}, "has no 'Absent'"),
    ],
)
def test_a_users_model_that_cannot_be_built_says_why(path, options, message):
    with pytest.raises(ValueError, match=message):
        build(Custom(name=f"{__name__}:{path}", **options), (4,), 2)


class Answers(nn.Module):
    """A model that answers what it was told to."""

    def __init__(self, answer):
        super().__init__()
        self.layer, self.answer = nn.Linear(4, 3), answer

    def forward(self, x):
        return self.answer(self.layer(x))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda y: (y, None), r"got a tuple from the model \(Answers\) for 2 samples, expected logits \[2, 2\]"),
        (lambda y: y, r"got \[2, 3\] from the model"),
        (lambda y: y[:, :2, None], r"got \[2, 2, 1\] from the model"),
        (lambda y: y @ torch.zeros(4, 2), r"not take samples \[4\]: RuntimeError: .*mat1 .*test_models.py, line \d+\)"),
        (lambda y: y.absent, r"AttributeError: 'Tensor' object has no attribute 'absent' \(.*test_models.py, line "),
    ],
)
def test_a_users_model_that_gives_no_logits_is_refused(answer, message):
    model = Answers(answer)
    with pytest.raises(ValueError, match=message):
        check_logits(model, (4,), 2)
    assert model.training and model.layer.training


def test_a_users_model_that_gives_logits_is_left_as_it_was():
    model = nn.Sequential(nn.LazyLinear(5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2))
    model[2].eval()
    check_logits(model, (4,), 2)
    assert [layer.training for layer in model] == [True, True, False, True]
    assert int(model[1].num_batches_tracked) == 0
    with pytest.raises(ValueError, match=r"not take samples \[3\]: RuntimeError: .*mat1 and mat2 [^(]*\([^(]*\)$"):
        check_logits(model, (3,), 2)


def test_maxmin_is_public():
    assert MaxMin()(torch.tensor([[1.0, -2.0]])).tolist() == [[1.0, 0.0, 0.0, 2.0]]
