"""Communication matrices K(t): their printed forms, eigenvalues, what they conserve, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip import matrices, portrait
from gossip.methods.easgd import EASGDConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.persyn import PerSynConfig

pytestmark = pytest.mark.timeout(60)

workers_ = st.integers(2, 7)


def every(workers):
    """One matrix of each method."""
    yield matrices.none(workers)
    yield matrices.persyn(workers)
    yield matrices.fully_sync(workers)
    yield matrices.easgd(workers, 0.9 / workers)
    yield matrices.easgd_async(workers, 1, 0.3)
    yield matrices.downpour_fetch(workers, workers)
    yield matrices.gosgd(workers, 1, 2, 1 / 3)
    yield matrices.pairwise(workers, 1, workers)
    yield matrices.expected_gosgd(workers, 0.4, 0.3)
    yield matrices.expected_easgd_async(workers, 0.3)


@given(workers_)
def test_every_matrix_keeps_a_consensus(workers):
    assert all(matrix.dtype == np.float64 and matrices.keeps_consensus(matrix) for matrix in every(workers))


@given(workers_)
def test_methods_without_a_master_leave_row_and_column_0_alone(workers):
    for matrix in (matrices.persyn(workers), matrices.gosgd(workers, 1, 2, 0.5), matrices.pairwise(workers, 1, 2)):
        unit = np.eye(workers + 1)[0]
        assert np.array_equal(matrix[0], unit) and np.array_equal(matrix[:, 0], unit)


@given(workers_, st.floats(0.01, 0.2))
def test_eigenvalues_of_easgd(workers, alpha):
    found = np.sort(np.linalg.eigvalsh(matrices.easgd(workers, alpha)))
    expected = np.sort([1.0, *[1 - alpha] * (workers - 1), 1 - (workers + 1) * alpha])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    gap = 1 - max(abs(1 - alpha), abs(1 - (workers + 1) * alpha))
    assert matrices.spectral_gap(matrices.easgd(workers, alpha)) == pytest.approx(gap)


def test_easgd_is_as_printed():
    expected = [[0.4, 0.3, 0.3], [0.3, 0.7, 0.0], [0.3, 0.0, 0.7]]
    np.testing.assert_allclose(matrices.easgd(2, 0.3), expected)


@given(workers_, st.floats(0.01, 1), st.floats(0.01, 1))
def test_gosgd_keeps_the_weighted_sum(workers, sender_mass, receiver_mass):
    a = matrices.gossip_weight(sender_mass, receiver_mass)
    matrix = matrices.gosgd(workers, 1, 2, a)
    expected = np.eye(workers + 1)
    expected[2, 1], expected[2, 2] = a, 1 - a
    np.testing.assert_allclose(matrix, expected, atol=1e-15)
    before = np.array([0, sender_mass, receiver_mass, *[0.1] * (workers - 2)])
    after = before + np.array([0, -sender_mass / 2, sender_mass / 2, *[0.0] * (workers - 2)])
    np.testing.assert_allclose(after @ matrix, before, atol=1e-12)


@given(st.integers(2, 5), st.floats(0, 1), st.floats(0, 1))
def test_expected_matrices_are_means_over_all_choices(workers, rate, weight):
    everybody = range(1, workers + 1)
    pairs = [(s, r) for s in everybody for r in everybody if r != s]
    still = (1 - rate) * matrices.none(workers)
    gossip = still + rate / len(pairs) * sum(matrices.gosgd(workers, s, r, weight) for s, r in pairs)
    np.testing.assert_allclose(matrices.expected_gosgd(workers, rate, weight), gossip, atol=1e-12)
    both = still + rate / len(pairs) * sum(matrices.pairwise(workers, s, r) for s, r in pairs)
    np.testing.assert_allclose(matrices.expected_gosgd(workers, rate, 1.0), both, atol=1e-12)


def test_a_push_of_downpour_adds_the_accumulator_and_clears_it():
    state = np.array([10.0, 1.0, 2.0, 0.5, 0.25])
    np.testing.assert_allclose(matrices.downpour_push(2, 2) @ state, [10.25, 1.0, 2.0, 0.5, 0.0])
    np.testing.assert_allclose(matrices.downpour_fetch(2, 1) @ state[:3], [10.0, 10.0, 2.0])


def test_a_later_matrix_stands_on_the_left():
    first, second = matrices.gosgd(3, 1, 2, 0.5), matrices.gosgd(3, 2, 3, 0.5)
    np.testing.assert_allclose(matrices.product([first, second]), second @ first)
    assert not np.allclose(second @ first, first @ second)
    with pytest.raises(ValueError, match="got no matrix"):
        matrices.product([])


def test_what_worker_1_keeps_does_not_travel_to_it():
    assert matrices.vectors(matrices.none(3)) == 0
    assert matrices.vectors(matrices.persyn(3)) == 6
    assert matrices.vectors(matrices.easgd(3, 0.1)) == 4, "w~ to two workers, and they to worker 1"
    assert matrices.vectors(matrices.fully_sync(3)) == 6


def test_spectral_gap_is_0_without_exchange_and_1_with_a_full_average():
    assert matrices.spectral_gap(matrices.none(4)) == 0.0
    assert matrices.spectral_gap(matrices.persyn(4)) == pytest.approx(1.0)
    assert matrices.spectral_gap(matrices.persyn(1)) == 1.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: matrices.none(0), "got 0 workers, expected at least 1"),
        (lambda: matrices.easgd(3, 0.5), r"got alpha=0.5 for 3 workers, expected 0 < alpha < 0.5.*diverge"),
        (lambda: matrices.easgd(3, 0.0), r"got alpha=0 for 3 workers"),
        (lambda: matrices.easgd_async(3, 1, 1.0), r"expected 0 < alpha < 1"),
        (lambda: matrices.easgd_async(3, 4, 0.1), "got worker 4, expected 1 to 3"),
        (lambda: matrices.gosgd(3, 2, 2, 0.1), "expected two different workers"),
        (lambda: matrices.gosgd(3, 1, 2, 1.5), "got weight=1.5, expected 0 to 1"),
    ],
)
def test_what_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    "config",
    [GoSGDConfig(rho=1.0), GoSGDConfig(rho=0.0), PerSynConfig(tau=1), PerSynConfig(rho=0.02), EASGDConfig(tau=1)],
    ids=portrait.named,
)
def test_what_else_could_be_configured_is_something_else_and_named_once(config):
    found = list(portrait.alternatives(config, 4))
    assert config not in [other for _, other in found]
    names = [name for name, _ in found]
    assert len({*names}) == len(names)
    assert [name for name in names if name.startswith(f"method: {config.method},")], "more or less of the same"
