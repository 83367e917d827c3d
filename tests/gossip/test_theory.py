"""Closed forms and exact recursions beside the simulator: means within 3 standard errors under both clocks."""

import math

import numpy as np
import pytest

from gossip import costs, matrices, theory
from gossip.methods.downpour import DownpourConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.none import NoneConfig
from gossip.methods.persyn import PerSynConfig
from gossip.simulate import compare, simulate
from gossip.virtual import ConstantWeightConfig, PairwiseConfig
from gossip.world import World

pytestmark = pytest.mark.timeout(120)

M, D = 5, 24
EXACT = [
    NoneConfig(),
    PerSynConfig(tau=3),
    PerSynConfig(rho=0.4),
    EASGDConfig(tau=3),
    EASGDConfig(alpha=0.25, tau=2, order="before_gradient"),
    EASGDConfig(alpha=0.3, tau=1, mode="async"),
    EASGDConfig(alpha=0.3, tau=1, mode="async", order="before_gradient"),
    DownpourConfig(n_fetch=1, n_push=1),
    PairwiseConfig(rho=0.4),
    ConstantWeightConfig(rho=0.4, weight=0.3),
]
EXACT_IN_ROUNDS = [EASGDConfig(alpha=0.3, tau=3, mode="async"), DownpourConfig(n_fetch=3, n_push=2)]


@pytest.mark.parametrize("clock", ["round", "tick"])
def test_simulated_means_are_the_expected_ones(clock):
    configs = EXACT + (EXACT_IN_ROUNDS if clock == "round" else [])
    # A step of each kind, early and late; the last but one and the last are in different phases of every period.
    steps = [1, 2, 3, 7, 30, 59, 60] if clock == "round" else [1, 2, 15, 60, 149, 150]
    world = World(M, D, steps[-1], clock=clock, variance=2.0, repeats=200, seed=5)
    for config, result in zip(configs, compare(configs, world, steps), strict=True):
        expected = theory.expected(config, M, D, steps[-1], clock, variance=2.0)
        assert expected is not None
        for step, mean, sem in zip(steps, result.mean, result.sem, strict=True):
            exact = expected[step - 1]
            assert abs(mean - exact) <= 3 * sem + 1e-6 * D, (config, step, mean, exact, sem)


def persyn_variance(since, clock, variance):
    """Variance of epsilon, `since` steps after a synchronisation: 2 (M - 1) D sigma^4 s^2 under `round`.

    Under `tick` the workers' numbers of steps n_m are multinomial and the variance is 2 D sigma^4 E tr((P N)^2) with
    N = diag(n), P = I - 1 1^T / M: (1 - 2/M) (s (1 - 1/M) + s^2 / M) + s^2 / M^2 for the trace.
    """
    s = since
    trace = (M - 1) * s * s if clock == "round" else (1 - 2 / M) * (s * (1 - 1 / M) + s * s / M) + s * s / (M * M)
    return 2 * D * variance**2 * trace


@pytest.mark.parametrize("clock", ["round", "tick"])
def test_variance_of_persyn_between_two_synchronisations(clock):
    since, repeats = (4, 4000) if clock == "round" else (4 * M, 2000)
    world = World(M, D, since, clock=clock, variance=2.0, repeats=repeats, seed=6)
    errors = simulate(PerSynConfig(tau=5), world, [since]).errors[:, 0]
    expected = persyn_variance(since, clock, variance=2.0)
    spread = (errors - errors.mean()) ** 2
    assert abs(spread.mean() - expected) <= 3 * spread.std() / math.sqrt(repeats)


def test_constant_weight_gossip_follows_the_recursion_of_one_tick():
    """V' = V1 + rho [-2 a V1 + (1 - 1/M) a^2 (M x2 + V1)] / (M - 1), V1 = V + 1 - 1/M, x2 = V/M + (1 - 1/M)^2."""
    rho, a = 0.4, 0.3
    found = theory.expected(ConstantWeightConfig(rho=rho, weight=a), M, 1, 200, "tick")
    v = 0.0
    for step in range(200):
        v1, x2 = v + 1 - 1 / M, v / M + (1 - 1 / M) ** 2
        v = v1 + rho * (-2 * a * v1 + (1 - 1 / M) * a * a * (M * x2 + v1)) / (M - 1)
        assert found[step] == pytest.approx(v)


def test_symmetric_pairwise_gossip_follows_its_recursion():
    """An average of two takes ||w_i - w_j||^2 / 2 off the error: V' = V1 - rho (V / (M - 1) + 1/2)."""
    rho, v = 0.4, 0.0
    found = theory.expected(PairwiseConfig(rho=rho), M, 1, 200, "tick")
    for step in range(200):
        v = v + 1 - 1 / M - rho * (v / (M - 1) + 0.5)
        assert found[step] == pytest.approx(v)


@pytest.mark.parametrize("order", ["after_step", "before_gradient"])
def test_easgd_follows_the_covariance_under_its_matrix(order):
    """C <- K (C + Q) K^T, or K C K^T + Q, with K as printed and Q the workers' updates."""
    config = EASGDConfig(alpha=0.2, tau=2, order=order)
    k, update = matrices.easgd(M, 0.2), np.diag([0.0, *[1.0] * M])
    mean = np.eye(M) - 1 / M
    covariance = np.zeros((M + 1, M + 1))
    found = theory.expected(config, M, 1, 40)
    for step in range(40):
        moves = (step + 1) % 2 == 0
        if moves and order == "before_gradient":
            covariance = k @ covariance @ k.T
        covariance = covariance + update
        if moves and order == "after_step":
            covariance = k @ covariance @ k.T
        assert found[step] == pytest.approx(np.trace(mean @ covariance[1:, 1:]))


def test_stationary_levels():
    # Disagreement shrinks by 1 - alpha where it moves: u = (1 - alpha)^2 (u + 1) in every one of M - 1 modes.
    shrunk = 0.8**2
    level = theory.stationary(EASGDConfig(alpha=0.2, tau=1), M)
    assert level.value == pytest.approx((M - 1) * shrunk / (1 - shrunk)) and level.sem is None
    slow = theory.stationary(EASGDConfig(alpha=1e-5, tau=1), M)
    assert slow.value == pytest.approx((M - 1) / (1 / (1 - 1e-5) ** 2 - 1), rel=1e-6), "it is not infinite"
    assert theory.stationary(PerSynConfig(tau=10), M).value == pytest.approx((M - 1) * 4.5)
    assert theory.stationary(PerSynConfig(rho=0.4), 8).value == pytest.approx(5.6)
    assert theory.stationary(FullySyncConfig(), M).value == 0.0
    assert theory.stationary(NoneConfig(), M).value == math.inf
    assert theory.stationary(GoSGDConfig(rho=0.0), M).value == math.inf
    assert theory.stationary(GoSGDConfig(rho=0.5), 1).value == 0.0
    # V = V + 1 - 1/M - rho (V / (M - 1) + 1/2)
    assert theory.stationary(PairwiseConfig(rho=0.4), M, "tick").value == pytest.approx(
        (M - 1) * ((1 - 1 / M) / 0.4 - 0.5)
    )


def test_gosgd_is_simulated_because_nothing_exact_is_known():
    assert theory.expected(GoSGDConfig(rho=0.4), 8, 10, 5) is None
    for delivery, promised in (("instant", 28), ("queued", 36)):
        level = theory.stationary(GoSGDConfig(rho=0.4), 8, "round", delivery)
        assert level.sem is not None and 0 < level.sem < 1
        assert abs(level.value - promised) < 1 + 3 * level.sem
    assert theory.stationary(GoSGDConfig(rho=1e-6), 8) is None
    assert theory.expected(EASGDConfig(mode="async", tau=2), M, D, 5, "tick") is None
    assert theory.expected(ConstantWeightConfig(rho=0.1), M, D, 5, "round", "queued") is None


@pytest.mark.parametrize("clock", ["round", "tick"])
def test_messages_sent_are_those_that_costs_names(clock):
    configs = [*EXACT, *EXACT_IN_ROUNDS, FullySyncConfig(), GoSGDConfig(rho=0.3)]
    steps = 60 if clock == "round" else 60 * M
    for config, result in zip(configs, compare(configs, World(M, 1, steps, clock=clock, repeats=25), []), strict=True):
        assert result.messages == pytest.approx(costs.messages(config, M), rel=0.05), config


def test_costs():
    assert costs.messages(NoneConfig(), 8) == 0.0
    assert costs.messages(GoSGDConfig(rho=0.1), 8) == 0.1
    assert costs.messages(GoSGDConfig(rho=0.1), 1) == 0.0
    assert costs.messages(FullySyncConfig(), 8) == 1.75
    assert costs.messages(PerSynConfig(tau=10), 8) == pytest.approx(0.175)
    assert costs.messages(PerSynConfig(rho=0.4), 8) == pytest.approx(0.7)
    assert costs.messages(EASGDConfig(tau=10), 8) == pytest.approx(0.175)
    assert costs.messages(EASGDConfig(tau=10, mode="async"), 8) == pytest.approx(0.2)
    assert costs.messages(DownpourConfig(n_fetch=5, n_push=10), 8) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="got 0 workers"):
        costs.messages(NoneConfig(), 0)
