"""When PerSyn synchronises: exactly as often as the number the user wrote says."""

from decimal import Decimal
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.methods.persyn import PerSynConfig

pytestmark = pytest.mark.timeout(60)


@given(st.decimals(0, 1, places=4), st.integers(0, 400))
def test_a_rate_synchronises_floor_n_rho_times_in_n_steps(rho, steps):
    options = PerSynConfig.of(rho=float(rho))
    assert sum(options.synchronises(step) for step in range(steps)) == floor(steps * rho)


@pytest.mark.parametrize("rho", ["0.29", "0.57", "0.07", "1e-05", "0.1", "1.0", "0.0"])
def test_a_rate_is_the_decimal_number_that_was_written(rho):
    """0.29 * 100 is 28.999999999999996 in floating point."""
    options = PerSynConfig.of(rho=float(rho))
    for steps in (100, 1000, 100_000):
        at_the_end = sum(options.synchronises(step) for step in range(steps - 100, steps))
        assert at_the_end == floor(steps * Decimal(rho)) - floor((steps - 100) * Decimal(rho))


@given(st.integers(1, 50), st.integers(0, 300))
def test_a_period_synchronises_after_every_tau_th_step(tau, steps):
    options = PerSynConfig.of(tau=tau)
    assert [step + 1 for step in range(steps) if options.synchronises(step)] == list(range(tau, steps + 1, tau))


@given(st.integers(1, 50))
def test_a_period_is_the_rate_of_its_inverse_where_that_is_a_short_decimal(tau):
    if 10_000 % tau == 0:
        by_period, by_rate = PerSynConfig.of(tau=tau), PerSynConfig.of(rho=1 / tau)
        assert [by_period.synchronises(t) for t in range(200)] == [by_rate.synchronises(t) for t in range(200)]


@pytest.mark.parametrize("options", [{}, {"tau": 3, "rho": 0.1}])
def test_exactly_one_of_period_and_rate_is_expected(options):
    with pytest.raises(ValueError, match="expected exactly one of them"):
        PerSynConfig.of(**options)


@pytest.mark.parametrize("options", [{"tau": 0}, {"rho": 1.5}, {"rho": -0.1}, {"tau": 2.5}, {"every": 3}])
def test_options_out_of_range_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PerSynConfig.of(**options)
