"""What every regularizer offers to a training loop, and how it sees a model's layers.

Imports regularizers.layers, configs.base and torch. A regularizer is one file: its options, a pure functional core,
and an `nn.Module` registered under the name the YAML key `regularizers[].name` uses. Of a model's forward pass
`observe` keeps what the loss needs of each call of a layer; `losses` makes one scalar a layer of it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from configs.base import Annotated, Config, Registry
from regularizers.layers import Layers, factors, named_layers, preactivation_layers

REGULARIZERS: Registry[type[Regularizer]] = Registry("regularizer")
_CHECKED_EVERY = 50
"""Calls between two looks at whether the loss is finite, where a look makes the host wait for the device."""


class RegularizerConfig(Config):
    """Options every regularizer has.

    Attributes:
        weight: multiplies the regularizer in the loss.
        layers: names of layers, or patterns such as `features.*`; by default a regularizer finds them itself.
        layer_weights: factors on single layers' losses by name or pattern, such as `{"head.*": 0.1}`; 1 for all others.
    """

    weight: float = Field(default=1e-4, ge=0)
    layers: list[str] | None = Field(default=None, min_length=1)
    layer_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class Regularizer(nn.Module):
    """A loss on what a model's layers gave in its last forward pass: `loss = criterion(model(x), y) + regularizer(y)`.

    Args:
        model: hooked, not changed. It may be compiled or wrapped afterwards.
        example_inputs: [N, ...], a batch as the model takes it, from which a regularizer with parameters of its own
            learns their shapes before there is an optimizer.
        options: see the regularizer's Config.

    Attributes:
        layers: the layers looked at, by name.

    Raises:
        ValueError: an option is out of range, a layer pattern fits nothing, or the model has no layer to regularize.
    """

    Options: ClassVar[type[RegularizerConfig]]

    def __init__(self, model: nn.Module, *, example_inputs: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        self.options = self.Options.of(**options)
        self.layers: Layers = self.find(model)
        self._factors = factors(self.layers, self.options.layer_weights)
        self._seen: dict[str, list[Any]] = {}
        self._unread: list[tuple[str, tuple[Tensor, ...], Tensor]] = []
        self._looked_away = False
        self._calls = 0
        self._handles: list[RemovableHandle] = [model.register_forward_pre_hook(self._begin(model))]
        self._handles += [layer.register_forward_hook(self._see(name, layer)) for name, layer in self.layers.items()]

    def find(self, model: nn.Module) -> Layers:
        """The layers to look at: those the options name, else all that give pre-activations, without the logits."""
        if self.options.layers is not None:
            return named_layers(model, self.options.layers)
        return preactivation_layers(model)

    # Hooks are functions, not methods: whoever copies the model must not copy the regularizer with it.
    def _begin(self, model: nn.Module) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            if module is model:
                self._seen = {}
                self._unread = []
                self._looked_away = False

        return hook

    def _see(self, name: str, layer: nn.Module) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if module is not layer:
                return  # a copy's
            if not (module.training and torch.is_grad_enabled()):
                self._looked_away = True
                return
            if not isinstance(output, Tensor):
                raise ValueError(f"got a {type(output).__name__} from layer {name!r}, expected a tensor; name another")
            if torch.compiler.is_compiling():  # what is seen here is looked at outside of the compiled graph
                self._unread.append((name, inputs, output.clone()))
                return
            with torch.autocast(output.device.type, enabled=False):
                self._seen.setdefault(name, []).append(self.observe(name, inputs, output))

        return hook

    def scale(self, layer: str, output: Tensor, terms: int = 1) -> float:
        """What to multiply the gradient of a layer's loss with that is computed beforehand; never 0.

        It is what the loss will be multiplied with, where the gradient can be kept so.

        Args:
            output: in whose dtype the gradient is kept.
            terms: that the loss is a mean of; in float16 they have to be undone, for the gradient would underflow.
        """
        narrow = output.dtype == torch.float16
        return float(terms) if narrow else self.options.weight * self._factors[layer] or 1.0

    def observe(self, layer: str, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        """What `losses` needs of one call of a layer in training; called in the forward pass, without autocast.

        Args:
            layer: its name.
            inputs: of the call.
            output: of the call; what follows in the model may change it in place.
        """
        return output

    @abstractmethod
    def losses(self, seen: dict[str, list[Any]], targets: Tensor) -> dict[str, Tensor]:
        """The unweighted scalar loss of each layer that was called.

        Args:
            seen: by layer what `observe` gave, one entry a call.
            targets: [K] labels of the batch.
        """

    def update(self) -> None:
        """Take the last batch into moving averages; called after `losses`, once it is known to be finite."""

    def forward(self, targets: Tensor) -> Tensor:
        """The weighted loss of the last forward pass; what was kept of it is released.

        After a pass in evaluation mode, or without gradients, it is 0 and nothing is updated.

        Args:
            targets: [K] labels of the batch.

        Raises:
            ValueError: the model has not run since the last call, or a layer gave numbers that are not finite.
        """
        with torch.autocast(targets.device.type, enabled=False):
            for name, inputs, output in self._unread:
                self._seen.setdefault(name, []).append(self.observe(name, inputs, output))
        self._unread = []
        seen, self._seen = self._seen, {}
        if not seen:
            if self._looked_away:
                self._looked_away = False
                return torch.zeros((), device=targets.device)
            raise ValueError(
                "got no activations, expected a forward pass of the model in training mode before this call"
            )
        with torch.autocast(targets.device.type, enabled=False):
            found = self.losses(seen, targets)
            total = sum((self._factors[name] * loss for name, loss in found.items()), start=torch.zeros(()))
            self._check(found, total)
            if self.training:
                self.update()
            return self.options.weight * total

    def _check(self, found: dict[str, Tensor], total: Tensor) -> None:
        self._calls += 1
        if torch.compiler.is_compiling() or (total.device.type != "cpu" and self._calls % _CHECKED_EVERY != 1):
            return
        if not total.isfinite():
            wrong = next((name for name, loss in found.items() if not loss.isfinite()), "?")
            raise ValueError(
                f"got activations of layer {wrong!r} that are NaN, infinite or too large for {type(self).__name__},"
                " expected finite ones; lower the learning rate or clip gradients"
            )

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._seen = {}
        self._unread = []
