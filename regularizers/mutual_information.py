"""Mutual information of a layer with the input or the label, estimated by a critic that learns beside the model (MINE).

Imports regularizers.base, layers and mine. Jonsson et al. 2020; Belghazi et al. 2018.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from regularizers.base import REGULARIZERS, Regularizer, RegularizerConfig
from regularizers.layers import Layers, home, preactivation_layers, probe
from regularizers.mine import Ascent, Critic, donsker_varadhan, paired

INPUT_SIDE = 32
"""Larger images are averaged down to this side before the critic sees them."""


class MutualInformationConfig(RegularizerConfig):
    """Options of `mutual_information`.

    Attributes:
        layers: by default the last layer before the classifier.
        toward: `input` adds I(X; T) to the loss, which compresses; `label` subtracts I(T; Y), which informs.
        variance: of the Gaussian noise on the representation: without any, I(X; T) of a deterministic T is infinite.
        side: larger feature maps are averaged down to this side before the critic sees them.
        hidden: units of the critic's hidden layers.
        rank: length of the critic's embeddings.
        critic_lr: learning rate of the critic's Adam.
        critic_steps: steps of the critic a batch.
        rate: of the moving average in the critic's gradient.
        exchange_critic: whether the critic's parameters are among this module's and travel like weights.
    """

    name: Literal["mutual_information"] = "mutual_information"
    toward: Literal["input", "label"] = "input"
    variance: float = Field(default=0.1, gt=0)
    side: int = Field(default=4, ge=1)
    hidden: int = Field(default=64, ge=1)
    rank: int = Field(default=16, ge=1)
    critic_lr: float = Field(default=1e-3, gt=0)
    critic_steps: int = Field(default=1, ge=1)
    rate: float = Field(default=0.01, gt=0, lt=1)
    exchange_critic: bool = False


def features(batch: Tensor, side: int) -> Tensor:
    """[K, ...] as [K, F] in float32 at least, maps larger than `side` averaged down to it."""
    wide = batch if batch.dtype == torch.float64 else batch.float()
    if wide.dim() == 4:
        wide = functional.adaptive_avg_pool2d(wide, (min(side, wide.shape[2]), min(side, wide.shape[3])))
    return wide.flatten(1)


@REGULARIZERS.register(MutualInformationConfig)
class MutualInformation(Regularizer):
    """± the Donsker-Varadhan bound on the mutual information of noisy representations, each with a critic of its own.

    The critics ascend by an optimizer of their own, on detached representations, after each batch; the model sees them
    as they were before.

    Raises:
        ValueError: there are no example_inputs.
    """

    Options = MutualInformationConfig
    options: MutualInformationConfig

    def __init__(self, model: nn.Module, *, example_inputs: Tensor | None = None, **options: Any) -> None:
        super().__init__(model, example_inputs=example_inputs, **options)
        seen = probe(model, self.layers, example_inputs)
        ((x, logits),) = probe(model, {"": model}, example_inputs)[""]
        self._classes = logits.shape[1]
        given = self.options
        size = features(x, INPUT_SIDE).shape[1] if given.toward == "input" else self._classes
        critics: dict[str, Critic] = {}
        self._ascents: dict[str, Ascent] = {}
        for name, calls in seen.items():
            device, dtype = home(self.layers[name])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # the same in every worker, whose training draws stay what they were
                width = features(calls[0][1], given.side).shape[1]
                critics[name] = Critic(size, width, given.hidden, given.rank).to(device, dtype)
            self._ascents[name] = Ascent(critics[name], given.rate, given.critic_lr)
        if given.exchange_critic:
            self.critics = nn.ModuleList(critics.values())
        self._input: Tensor | None = None
        self._pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.estimates: dict[str, Tensor] = {}
        self._handles.append(model.register_forward_pre_hook(self._take(model)))

    def find(self, model: nn.Module) -> Layers:
        """The layers that are named, else the last one that gives pre-activations."""
        if self.options.layers is not None:
            return super().find(model)
        layers = preactivation_layers(model)
        last = next(reversed(layers))
        return {last: layers[last]}

    def _take(self, model: nn.Module) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module is model and module.training:
                self._input = inputs[0].detach()

        return hook

    def observe(self, layer: str, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The representation with its noise, [K, F]."""
        clean = features(output.clone(), self.options.side)  # averaging keeps its input for the backward pass
        scale: float = self.options.variance**0.5
        return clean + scale * torch.randn_like(clean)

    def losses(self, seen: dict[str, list[Any]], targets: Tensor) -> dict[str, Tensor]:
        """± the bound of each layer, the mean over its calls.

        Raises:
            ValueError: the batch has a single sample.
        """
        if len(targets) < 2:
            raise ValueError("got a batch of 1 sample, expected at least 2: pairs are made within the batch")
        sign = 1.0
        if self.options.toward == "label":
            x, sign = functional.one_hot(targets, self._classes), -1.0
        else:
            assert self._input is not None
            x, self._input = features(self._input, INPUT_SIDE), None
        found: dict[str, Tensor] = {}
        for name, calls in seen.items():
            bounds = [self._bound(name, x.to(t.dtype), t) for t in calls]
            self._pairs[name] = [(x.to(t.dtype), t.detach()) for t in calls]
            bound = torch.stack(bounds).mean()
            self.estimates[name] = bound.detach()
            found[name] = sign * bound
        return found

    def _bound(self, name: str, x: Tensor, t: Tensor) -> Tensor:
        critic = self._ascents[name].critic
        # Copies, because the critic moves before the model's backward pass.
        fixed = {key: parameter.detach().clone() for key, parameter in critic.named_parameters()}
        scores: Tensor = functional_call(critic, fixed, (x, t))
        return donsker_varadhan(*paired(scores))

    def update(self) -> None:
        """Let the critics ascend on the last batch."""
        pairs, self._pairs = self._pairs, {}
        for name, calls in pairs.items():
            for x, t in calls:
                for _ in range(self.options.critic_steps):
                    self._ascents[name].step(x, t)

    def get_extra_state(self) -> dict[str, Any]:
        """Critics, their optimizers and moving averages, for the checkpoint."""
        return {name: ascent.state_dict() for name, ascent in self._ascents.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_extra_state` gave."""
        for name, ascent in self._ascents.items():
            ascent.load_state_dict(state[name])
