"""Models by name, each sized from the data's shape, and the user's own; imports configs and regularizers only.

Importing this package registers every model.
"""

from __future__ import annotations

import inspect
from itertools import chain

import torch
from torch import Tensor, nn

from configs.base import Custom, check_call, import_callable
from configs.blame import told
from trainers.models.alexnet import AlexNetConfig
from trainers.models.base import MODELS, ModelConfig, Shape, check_data
from trainers.models.cnn import CnnConfig
from trainers.models.elu11 import Elu11Config
from trainers.models.heads import MaxPlusMin, with_classifier
from trainers.models.inception import InceptionConfig
from trainers.models.layers import MaxMin
from trainers.models.lenet import LeNetConfig
from trainers.models.matching import matched, parameter_count
from trainers.models.mlp import MlpConfig
from trainers.models.vgg16 import Vgg16Config
from trainers.models.wide_resnet import WideResNetConfig


def build(config: ModelConfig | Custom, shape: Shape, classes: int) -> nn.Module:
    """The model that `config` names, drawing its weights from torch's global generator.

    Args:
        config: options of a registered model, or of the user's own: its class or function is called with the
            options, and with `shape` and `classes` where its signature has parameters of these names.
        shape: of one sample, (C, H, W) or (features,).
        classes: number of classes, the length of the logits.

    Raises:
        ValueError: the data do not fit the model, or the user's object cannot be found or called, or is no module.
    """
    if isinstance(config, ModelConfig):
        check_data(shape, classes)
        builder = with_classifier(MODELS.get(config.name))
        if config.activation == "maxmin" and config.match_parameters:
            config = matched(builder, config, shape, classes)
        return builder(config, shape, classes)
    return _custom(config, shape, classes)


def _custom(config: Custom, shape: Shape, classes: int) -> nn.Module:
    path = config.model_dump()[MODELS.key]
    factory = import_callable(MODELS.kind, path)
    taken = inspect.signature(factory).parameters
    offered = {"shape": shape, "classes": classes}
    options = {name: value for name, value in offered.items() if name in taken} | config.options(MODELS.key)
    check_call(MODELS.kind, path, factory, **options)
    model = factory(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {path!r} gave a {type(model).__name__}, expected a torch.nn.Module")
    return model


def check_logits(model: nn.Module, shape: Shape, classes: int) -> None:
    """Check that a model of the user's own gives logits for the data's samples; evaluates two, where the model is.

    Raises:
        ValueError: it does not take them, or gives something else.
    """
    name = type(model).__name__
    place = next(chain(model.parameters(), model.buffers()), torch.empty(0)).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(2, *shape, device=place))
    except Exception as error:  # whatever the user's code does
        raise ValueError(
            f"got a model ({name}) that does not take samples {list(shape)}: {type(error).__name__}:"
            f" {told(error, whole=False)}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    got = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if got != [2, classes]:
        raise ValueError(
            f"got {got} from the model ({name}) for 2 samples, expected logits [2, {classes}]: a score a class"
        )


__all__ = [
    "MODELS",
    "AlexNetConfig",
    "CnnConfig",
    "Elu11Config",
    "InceptionConfig",
    "LeNetConfig",
    "MaxMin",
    "MaxPlusMin",
    "MlpConfig",
    "ModelConfig",
    "Shape",
    "Vgg16Config",
    "WideResNetConfig",
    "build",
    "check_logits",
    "matched",
    "parameter_count",
]
