"""Consensus error, and its estimate from messages that pass by anyway."""

import random

import pytest
import torch

from gossip.consensus import OnlineEstimate, consensus_error

pytestmark = pytest.mark.timeout(60)


def test_the_error_is_the_squared_distance_from_the_mean_summed_over_workers():
    weights = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    assert consensus_error(weights) == pytest.approx((1 + 1) + (1 + 1) + (0 + 4))
    assert consensus_error(weights[:1]) == 0
    assert consensus_error(torch.ones(4, 1000)) == 0


@pytest.mark.parametrize("dimension", [100, 4096, 20_001, 100_000], ids=["all", "all blocks", "with a tail", "sampled"])
@pytest.mark.parametrize("workers", [2, 8])
def test_the_estimate_is_right_over_random_vectors(dimension, workers):
    """E ||w_r - w_s||^2 = 2 epsilon / (M - 1); layers of unlike scale, so that a sample of blocks has to be fair."""
    torch.manual_seed(dimension + workers)
    generator = random.Random(workers)
    scale = torch.linspace(0.1, 2.0, dimension)
    estimate = OnlineEstimate(decay=0.995, seed=3)
    truth = 0.0
    for turn in range(40):
        weights = torch.randn(workers, dimension) * scale
        truth += consensus_error(weights) / 40
        for _ in range(50):
            mine, theirs = generator.sample(range(workers), 2)
            estimate.observe(weights[mine], weights[theirs])
        assert turn or estimate.error(workers) is not None
    assert estimate.error(workers) == pytest.approx(truth, rel=0.1)


def test_there_is_no_estimate_before_the_first_message_or_without_peers():
    estimate = OnlineEstimate()
    assert estimate.error(4) is None
    estimate.observe(torch.zeros(10), torch.ones(10))
    assert estimate.error(4) == pytest.approx(10 * 3 / 2)
    assert estimate.error(1) is None


def test_the_estimate_is_zero_at_a_consensus():
    estimate, weights = OnlineEstimate(), torch.randn(50_000)
    for _ in range(5):
        estimate.observe(weights, weights.clone())
    assert estimate.error(8) == 0


def test_the_estimate_follows_a_change():
    estimate, zeros = OnlineEstimate(), torch.zeros(100)
    for _ in range(60):
        estimate.observe(zeros, zeros + 1)
    for _ in range(60):
        estimate.observe(zeros, zeros + 0.1)
    assert estimate.error(2) == pytest.approx(0.5, rel=0.4)


def test_the_sample_depends_on_the_seed_alone():
    torch.manual_seed(0)
    mine, theirs = torch.randn(2, 100_000)

    def first(seed: int) -> float | None:
        estimate = OnlineEstimate(seed=seed)
        estimate.observe(mine, theirs)
        return estimate.error(2)

    assert first(1) == first(1) != first(2)
