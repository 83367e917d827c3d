"""Classifiers that are factored, or pool a 1×1 convolution by max plus min."""

import pytest
import torch
from torch import nn

from regularizers import Reve
from regularizers.row_space import FactoredLinear
from trainers.models import AlexNetConfig, CnnConfig, LeNetConfig, MaxPlusMin, MlpConfig, WideResNetConfig, build

pytestmark = pytest.mark.timeout(60)
IMAGE = (3, 20, 20)


@pytest.mark.parametrize("activation", ["relu", "maxmin"])
@pytest.mark.parametrize("config", [CnnConfig, LeNetConfig, AlexNetConfig, MlpConfig])
def test_a_factored_classifier_starts_as_the_linear_one(config, activation):
    options = {"width": 0.25, "activation": activation, "match_parameters": False}
    torch.manual_seed(0)
    plain = build(config(**options), IMAGE, 5)
    torch.manual_seed(0)
    factored = build(config(**options, classifier="factored"), IMAGE, 5)
    x = torch.randn(2, *IMAGE)
    assert isinstance(factored.head.classifier, FactoredLinear)
    assert torch.allclose(factored(x), plain(x), atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        CnnConfig(width=0.25, classifier="weldon", activation="maxmin"),
        WideResNetConfig(depth=10, k=1, classifier="weldon"),
    ],
)
def test_weldon_scores_positions_and_pools_their_extremes(config):
    torch.manual_seed(0)
    model = build(config, IMAGE, 5)
    x = torch.randn(4, *IMAGE)
    reve = Reve(model, weight=1.0)
    assert list(reve.layers) == ["head.classifier"]
    logits = model(x)
    assert logits.shape == (4, 5) and not any(isinstance(module, nn.Linear) for module in model.modules())
    loss = reve(torch.arange(4))
    loss.backward()
    assert loss.isfinite() and model.head.classifier.weight.grad.abs().sum() > 0
    model.eval()
    maps = model.features(x)
    assert maps.shape[2] > 1
    scores = model.head.classifier(maps).flatten(2)
    assert torch.allclose(model(x), scores.max(2)[0] + scores.min(2)[0])
    assert torch.equal(MaxPlusMin()(torch.tensor([[[[3.0, -1.0]]]])), torch.tensor([[2.0]]))


def test_a_model_without_feature_maps_has_no_weldon_head():
    with pytest.raises(ValueError, match="classifier weldon for model 'mlp', expected a model with feature maps"):
        build(MlpConfig(classifier="weldon"), IMAGE, 5)
