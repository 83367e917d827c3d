"""REVE: an upper bound on H(Z) + H(C | Z), Z the part of the penultimate representation that the classifier sees.

Imports regularizers.base, densities, layers and row_space. Blot's thesis, chapter 5; equation numbers are the thesis'.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from regularizers.base import REGULARIZERS, Regularizer, RegularizerConfig
from regularizers.densities import VARIANCE_FLOOR, log_density
from regularizers.layers import Layers, is_head, linear_layers, named_layers
from regularizers.row_space import FactoredLinear, row_space


def max_plus_min(scores: Tensor) -> Tensor:
    """WELDON's pooling of a 1×1-convolution head: the largest plus the smallest score of each class (thesis 5.4.3).

    Args:
        scores: [..., positions, C].
    """
    return scores.amax(-2) + scores.amin(-2)


def reve_of_samples(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    mixture: bool = True,
    floor: float = VARIANCE_FLOOR,
    pooling: Literal["none", "max_plus_min", "mean"] = "none",
) -> Tensor:
    """Ω of (5.13) for samples of z: −1/(KS) Σ [log softmax(W z + b)_c + Σ_i log q(z_i)].

    The classifier's term is computed from z, so that its gradient with respect to W is δ zᵀ. With positions, log q is
    averaged over them: they are samples of one density a channel, as in SHADE.

    Args:
        z: [S, K, D], or [S, K, positions, D] with a pooling.
        weight: [C, D].
        bias: [C].
        targets: [K].
        pooling: of the scores over positions, as in the model.
    """
    scores = functional.linear(z, weight, bias)
    if pooling != "none":
        scores = max_plus_min(scores) if pooling == "max_plus_min" else scores.mean(-2)
    labels = targets.expand(len(z), -1).flatten()
    classified = functional.cross_entropy(scores.flatten(0, 1), labels)
    samples = z.flatten(0, -2)
    return classified - log_density(samples, mixture, floor).sum() / len(samples)


def reve_loss(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    noise: Tensor,
    *,
    variable: Literal["z", "y"] = "z",
    mixture: bool = True,
    floor: float = VARIANCE_FLOOR,
) -> Tensor:
    """The unweighted REVE loss (5.13), y = h + ε, z = P y with P the projection onto the row space of W, detached.

    Args:
        h: penultimate representation, [K, D].
        weight: of the last linear layer, [C, D].
        bias: of the last linear layer, [C].
        targets: classes, [K].
        noise: S draws of ε, of variance σ², [S, K, D].
        variable: regularize z, or y itself.
        mixture: two Gaussians a coordinate, or one.
        floor: smallest variance of a fitted Gaussian.
    """
    y = h + noise
    if variable == "z":
        basis = row_space(weight.detach())
        y = (y @ basis) @ basis.mT
    return reve_of_samples(y, weight, bias, targets, mixture=mixture, floor=floor)


class ReveConfig(RegularizerConfig):
    """Options of `reve`.

    Attributes:
        layers: the classifier, if it is not the model's last linear layer or 1×1 convolution.
        variance: σ² of the noise on the representation.
        draws: S, samples of the noise for each sample of the batch.
        variable: `z`, the part of the representation that the classifier sees, or `y`, all of it.
        density: two Gaussians a coordinate, or one.
        refresh: batches between two decompositions of the classifier's weights.
        pooling: of the scores of a classifier that has positions, as in the model.
        variance_floor: smallest variance of a fitted Gaussian.
    """

    name: Literal["reve"] = "reve"
    variance: float = Field(default=0.01, ge=0)
    draws: int = Field(default=12, ge=1)
    variable: Literal["z", "y"] = "z"
    density: Literal["mixture", "gaussian"] = "mixture"
    refresh: int = Field(default=1, ge=1)
    pooling: Literal["max_plus_min", "mean"] = "max_plus_min"
    variance_floor: float = Field(default=VARIANCE_FLOOR, gt=0)


@REGULARIZERS.register(ReveConfig)
class Reve(Regularizer):
    """The REVE loss (5.13) on the representation before the classifier, for which the classifier is looked up.

    With a `FactoredLinear` classifier nothing is decomposed.
    """

    Options = ReveConfig
    options: ReveConfig

    def __init__(self, model: nn.Module, *, example_inputs: Tensor | None = None, **options: Any) -> None:
        super().__init__(model, example_inputs=example_inputs, **options)
        ((self._name, head),) = self.layers.items()
        self._batches = 0
        self._later: str | None = None
        self._lookouts: list[RemovableHandle] = []
        if self.options.layers is None:
            others = {name: layer for name, layer in linear_layers(model).items() if layer is not head}
            self._lookouts = [layer.register_forward_hook(self._notice(name, layer)) for name, layer in others.items()]
            self._handles += self._lookouts
        self._basis: Tensor | None = None  # no buffer: the mean of several workers' bases would be none

    def find(self, model: nn.Module) -> Layers:
        """The classifier: the last linear layer, or the one that is named.

        Raises:
            ValueError: the model has none, or several layers are named.
        """
        named = self.options.layers is not None
        layers = named_layers(model, self.options.layers or []) if named else linear_layers(model)
        name = next(reversed(layers), None)
        if name is None or not is_head(layers[name]) or getattr(layers[name], "groups", 1) != 1:
            got = "no linear layer" if name is None else f"{name!r} ({type(layers[name]).__name__})"
            raise ValueError(
                f"got {got} at the end of {type(model).__name__}, expected a linear layer or a convolution 1x1 that"
                " gives the logits; name it with layers: [NAME]"
            )
        if named and len(layers) > 1:
            raise ValueError(f"got layers {', '.join(layers)}, expected the one that gives the logits")
        return {name: layers[name]}

    def _notice(self, name: str, layer: nn.Module) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if module is layer:
                self._later = name

        return hook

    def observe(self, layer: str, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The representation, [K, D] or [K, positions, D]."""
        self._later = None
        h = inputs[0]
        if not isinstance(self.layers[layer], nn.Linear):
            h = h.flatten(2).mT
        elif h.dim() > 2:
            h = h.flatten(1, -2)
        return h if h.dtype == torch.float64 else h.float()

    def losses(self, seen: dict[str, list[Any]], targets: Tensor) -> dict[str, Tensor]:
        """The loss of the batch; the mean over calls of a classifier that is called more than once.

        Raises:
            ValueError: the layer that was taken for the classifier is not the last one.
        """
        if self._later is not None:
            raise ValueError(
                f"got layer {self._later!r} called after {self._name!r}, which was taken for the classifier;"
                " expected the layer that gives the logits to be the last; name it with layers: [NAME]"
            )
        for handle in self._lookouts:  # one pass is enough to know the order
            handle.remove()
        self._lookouts = []
        calls = [self._loss(h, targets) for h in seen[self._name]]
        return {self._name: torch.stack(calls).mean()}

    def _loss(self, h: Tensor, targets: Tensor) -> Tensor:
        options, head = self.options, self.layers[self._name]
        weight, bias = _affine(head)
        scale = options.variance**0.5
        if options.variable == "y":
            z = h + scale * torch.randn(options.draws, *h.shape, dtype=h.dtype, device=h.device)
        else:
            # Noise in the row space has the law of projected noise, with C numbers a draw in place of D.
            basis = self._row_space(head).to(h)
            inside = h @ basis
            noise = torch.randn(options.draws, *inside.shape, dtype=h.dtype, device=h.device)
            z = (inside + scale * noise) @ basis.mT
        return reve_of_samples(
            z,
            weight.to(h.dtype),
            None if bias is None else bias.to(h.dtype),
            targets,
            mixture=options.density == "mixture",
            floor=options.variance_floor,
            pooling=options.pooling if h.dim() > 2 else "none",
        )

    def _row_space(self, head: nn.Module) -> Tensor:
        if isinstance(head, FactoredLinear):
            return head.right.detach()
        if self._basis is None or self._batches % self.options.refresh == 0:
            self._basis = row_space(_affine(head)[0].detach())
        return self._basis

    def update(self) -> None:
        """Count the batches towards the next decomposition."""
        self._batches += 1

    def get_extra_state(self) -> dict[str, Any]:
        """Batches seen, and the basis that is in use, for the checkpoint."""
        return {"batches": self._batches, "basis": self._basis if self.options.refresh > 1 else None}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_extra_state` gave."""
        self._batches, self._basis = state["batches"], state["basis"]


def _affine(head: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weights [C, D] and the bias [C] of a linear layer or a 1×1 convolution."""
    assert isinstance(head, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)), head
    return head.weight.flatten(1), head.bias
