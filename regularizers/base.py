"""What every regularizer offers to a training loop, and how it sees a model's pre-activations.

Imports configs.base and torch. A regularizer is one file: its options, a pure functional core, and an `nn.Module`
registered under the name the YAML key `regularizers[].name` uses.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from configs.base import Config, Registry

REGULARIZERS: Registry[type[Regularizer]] = Registry("regularizer")


class RegularizerConfig(Config):
    """Options every regularizer has.

    Attributes:
        weight: multiplies the regularizer in the loss.
    """

    weight: float = Field(default=1e-4, ge=0)


def preactivation_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model's linear and convolution layers in order, without the last linear one, whose outputs are the logits."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers: list[tuple[str, nn.Module]] = [
        (name, module) for name, module in model.named_modules() if isinstance(module, kinds)
    ]
    if layers and isinstance(layers[-1][1], nn.Linear):
        layers.pop()
    return layers


class Regularizer(nn.Module):
    """A loss on the pre-activations of a model's last forward pass: `loss = criterion(model(x), y) + regularizer(y)`.

    Args:
        model: hooked, not changed.
        options: see the regularizer's Config.

    Raises:
        ValueError: an option is out of range, or the model has no layer to regularize.
    """

    Options: ClassVar[type[RegularizerConfig]]

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__()
        self.options = self.Options.of(**options)
        layers = preactivation_layers(model)
        if not layers:
            raise ValueError(
                f"got {type(model).__name__} without linear or convolution layers before its classifier, expected one"
            )
        self._activations: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = [
            layer.register_forward_hook(self._remember(name)) for name, layer in layers
        ]

    def _remember(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if module.training:
                self._activations[name] = output

        return hook

    def forward(self, targets: Tensor) -> Tensor:
        """The weighted loss of the last forward pass in training mode; its activations are released.

        Args:
            targets: [K] labels of the batch.

        Raises:
            ValueError: the model has not run in training mode since the last call.
        """
        if not self._activations:
            raise ValueError(
                "got no activations, expected a forward pass of the model in training mode before this call"
            )
        activations, self._activations = self._activations, {}
        return self.options.weight * self.loss(activations, targets)

    @abstractmethod
    def loss(self, activations: dict[str, Tensor], targets: Tensor) -> Tensor:
        """The unweighted scalar loss of named pre-activations."""

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
