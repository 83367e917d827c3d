"""Mutual information by a neural critic: the Donsker-Varadhan bound, the critic and its ascent. Imports torch only.

MINE, Belghazi et al. 2018. A batch of K pairs gives K samples of the joint distribution and, every x with every other
t, K (K - 1) of the product of the marginals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

EVALUATIONS = 10
"""Batches that an estimate is averaged over."""
LOOKS = 10
"""Times that `estimate` looks at unseen samples."""


def log_mean_exp(scores: Tensor) -> Tensor:
    """log mean exp of all elements, without overflow."""
    return scores.flatten().logsumexp(0) - math.log(scores.numel())


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> Tensor:
    """E_joint[T] − log E_marginal[exp T], a lower bound on the mutual information in nats (Donsker-Varadhan).

    Args:
        joint: the critic's scores of samples of the joint distribution, any shape.
        marginal: its scores of samples of the product of the marginals, any shape.
    """
    return joint.mean() - log_mean_exp(marginal)


def moved_average(log_average: Tensor, marginal: Tensor, rate: float) -> Tensor:
    """The logarithm of (1 − rate) · average + rate · mean exp(marginal), detached.

    Args:
        log_average: logarithm of the average so far, a scalar; infinite before the first batch, which sets it.
    """
    now = log_mean_exp(marginal.detach())
    moved = torch.logaddexp(log_average + math.log1p(-rate), now + math.log(rate))
    return torch.where(log_average.isfinite(), moved, now)


def corrected_bound(joint: Tensor, marginal: Tensor, log_average: Tensor) -> Tensor:
    """The Donsker-Varadhan bound, with the gradient that divides by the moving average instead of the batch's own mean.

    E_joint[∇T] − E_marginal[∇T exp T] / average: less biased than that of the batch (MINE, section 3.2).

    Args:
        joint, marginal: see `donsker_varadhan`.
        log_average: logarithm of the moving average of mean exp(marginal), updated with this batch.
    """
    value = donsker_varadhan(joint, marginal).detach()
    direction = joint.mean() - (marginal - log_average).exp().mean()
    return value + direction - direction.detach()


def paired(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The scores [K] of pairs that belong together and those [K (K − 1)] of all others, of a matrix [K, K]."""
    count = len(scores)
    # Rows of length K + 1 bring the diagonal into the first column.
    others = scores.flatten()[1:].view(count - 1, count + 1)[:, :-1]
    return scores.diagonal(), others.flatten()


class Critic(nn.Module):
    """T_θ(x, t) = u(x) + v(t) − ½‖φ(x) − ψ(t)‖² of all pairs of two batches, as one product of matrices.

    φ and ψ are a linear map plus a network of one hidden layer; a Gaussian pair's density ratio is of this form.

    Args:
        inputs: features of x.
        features: features of t.
        hidden: units of the hidden layer of each side.
        rank: length of φ and ψ.
    """

    def __init__(self, inputs: int, features: int, hidden: int = 64, rank: int = 16) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Linear(size, hidden + rank) for size in (inputs, features))
        self.tops = nn.ModuleList(nn.Linear(hidden, rank + 1) for _ in range(2))
        self._hidden, self._rank = hidden, rank

    def _embedded(self, batch: Tensor, side: int) -> tuple[Tensor, Tensor]:
        hidden, straight = self.sides[side](batch).split([self._hidden, self._rank], 1)
        curved, alone = self.tops[side](torch.nn.functional.silu(hidden)).split([self._rank, 1], 1)
        embedding = straight + curved
        return embedding, alone - 0.5 * embedding.square().sum(1, keepdim=True)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Scores of every x with every t: [K, inputs], [L, features] -> [K, L]."""
        left, of_x = self._embedded(x, 0)
        right, of_t = self._embedded(t, 1)
        scores: Tensor = left @ right.mT + of_x + of_t.mT
        return scores


class Ascent:
    """A critic's own optimizer (Adam) and moving average.

    Args:
        critic: `critic(x, t)` gives the scores [K, K] of every pair.
        rate: of the moving average.
        lr: learning rate of Adam.
    """

    def __init__(self, critic: nn.Module, rate: float = 0.01, lr: float = 1e-3) -> None:
        self.critic, self.rate = critic, rate
        self.optimizer = torch.optim.Adam(critic.parameters(), lr=lr)
        self.log_average = torch.tensor(float("-inf"))

    @torch.enable_grad()
    def step(self, x: Tensor, t: Tensor) -> Tensor:
        """One step up the corrected bound; neither x nor t receives a gradient. Returns the bound before the step."""
        joint, marginal = paired(self.critic(x.detach(), t.detach()))
        self.log_average = moved_average(self.log_average.to(marginal), marginal, self.rate)
        bound = corrected_bound(joint, marginal, self.log_average)
        torch.autograd.backward(-bound)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # nobody else's optimizer shall find these gradients
        return bound.detach()

    def state_dict(self) -> dict[str, Any]:
        """Critic, optimizer and moving average."""
        return {
            "critic": self.critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "log_average": self.log_average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.log_average = state["log_average"]


def estimate(
    sample: Callable[[int], tuple[Tensor, Tensor]],
    *,
    steps: int,
    batch_size: int,
    unseen: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    hidden: int = 64,
    rank: int = 16,
    lr: float = 2e-3,
    seed: int = 0,
) -> float:
    """I(X; T) in nats as the bound that a critic of its own reaches on batches that it has not learned from.

    With `unseen`, which is for sets that a critic can learn by heart, it is the best bound on the way: every critic
    gives a lower bound, the last not being the best where it has overfitted; 0 is one, too.

    Args:
        sample: draws (x [K, F], t [K, G]) for a batch size K, fresh ones in each call.
        steps: of the critic; its learning rate falls along a cosine.
        unseen: draws from samples kept apart, where `sample` comes back to the same ones.
        seed: of the critic's first weights; torch's generator is left as it was.
    """
    x, t = sample(batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = Critic(x.shape[1], t.shape[1], hidden, rank).to(x)
    ascent = Ascent(critic, lr=lr)
    best = 0.0
    for step in range(steps):
        for group in ascent.optimizer.param_groups:
            group["lr"] = 0.5 * lr * (1 + math.cos(math.pi * step / steps))
        ascent.step(*sample(batch_size))
        if unseen is not None and (step + 1) % max(1, steps // LOOKS) == 0:
            best = max(best, _bound(critic, unseen, batch_size))
    return _bound(critic, sample, batch_size) if unseen is None else best


@torch.no_grad()
def _bound(critic: nn.Module, sample: Callable[[int], tuple[Tensor, Tensor]], batch_size: int) -> float:
    bounds = [donsker_varadhan(*paired(critic(*sample(batch_size)))) for _ in range(EVALUATIONS)]
    return float(torch.stack(bounds).mean())
