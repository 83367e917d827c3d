"""Choosing exchanges by what they gain: the algebra of one worker, and the rate it keeps."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.adaptive import Adaptive, Standing

pytestmark = pytest.mark.timeout(60)

POSITIVE = st.floats(0, 1e6)


@given(st.integers(1, 2**61), st.integers(0, 2**61), POSITIVE, POSITIVE)
def test_the_gain_is_what_the_receivers_share_of_the_error_falls_by(shares, mass, theirs, mine):
    sender, receiver = Adaptive(0.1, random.Random(0)), Adaptive(0.1, random.Random(0))
    sender.wandered, receiver.wandered = mine, theirs
    (gain,) = sender.gains(shares, [Standing(mass, theirs)])
    receiver.merged(shares / (mass + shares), mine)
    assert theirs - receiver.wandered == pytest.approx(gain, rel=1e-9, abs=1e-6 * (theirs + mine))


def test_who_wandered_farthest_is_the_best_receiver_at_equal_mass():
    gains = Adaptive(0.1, random.Random(0)).gains(1, [Standing(2, 3.0), Standing(2, 9.0), Standing(2, 0.0)])
    assert max(range(3), key=gains.__getitem__) == 1


def test_who_holds_little_mass_is_the_best_receiver_at_equal_distance():
    gains = Adaptive(0.1, random.Random(0)).gains(5, [Standing(50, 3.0), Standing(5, 3.0), Standing(500, 3.0)])
    assert max(range(3), key=gains.__getitem__) == 1


@pytest.mark.parametrize("rho", [0.01, 0.1, 0.4, 1.0])
def test_messages_cost_rho_a_step_on_average(rho):
    """Gains that differ are waited for, but not for long."""
    generator = random.Random(1)
    adaptive, steps, sent = Adaptive(rho, generator), round(2000 / rho), 0
    for _ in range(steps):
        gain = generator.expovariate(1.0)
        if adaptive.step() and adaptive.worth(gain):
            adaptive.sent(gain)
            sent += 1
    assert sent / steps == pytest.approx(rho, rel=0.05)


def test_messages_that_could_not_be_sent_are_not_made_up_for_in_a_burst():
    adaptive = Adaptive(0.5, random.Random(0))
    for _ in range(1000):
        adaptive.step()
    burst = 0
    while adaptive.step() and adaptive.worth(0.0):
        adaptive.sent(0.0)
        burst += 1
    assert burst <= 4
