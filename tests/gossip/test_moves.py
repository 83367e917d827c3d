"""Moves of the stacked state: what they do in place is what their matrices say, and what they conserve."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.mass import TOTAL, halve, merge_weight
from gossip.matrices import product
from gossip.moves import Average, Copy, Elastic, Flush, Merge, Mix, dense

pytestmark = pytest.mark.timeout(60)

ROWS = 6
DIMENSION = 3
rows = st.integers(0, ROWS - 1)
several = st.lists(rows, min_size=1, max_size=ROWS, unique=True)


def any_matrix(seed):
    """Row-stochastic, leaving the last row alone."""
    matrix = np.eye(ROWS)
    matrix[:-1, :-1] = np.random.default_rng(seed).dirichlet(np.ones(ROWS - 1), ROWS - 1)
    return matrix


def make(kind, first, other, weight, chosen, seed):
    """A move of the first five rows; the last one is an accumulator, which only `Flush` touches."""
    second = (first + other) % (ROWS - 1)
    made = {
        "copy": Copy(first, second),
        "merge": Merge(first, second, weight),
        "average": Average(sorted({first, *chosen})),
        "elastic": Elastic(sorted({second, *chosen} - {first}), first, 0.3 * weight),
        "mix": Mix(range(ROWS), any_matrix(seed)),
        "flush": Flush(first, ROWS - 1),
    }
    return made[kind]


moves = st.builds(
    make,
    kind=st.sampled_from(["copy", "merge", "average", "elastic", "mix", "flush"]),
    first=st.integers(0, ROWS - 2),
    other=st.integers(1, ROWS - 2),
    weight=st.floats(0.01, 1),
    chosen=st.frozensets(st.integers(0, ROWS - 2)),
    seed=st.integers(0, 100),
)


def random_state(seed):
    return np.random.default_rng(seed).standard_normal((ROWS, DIMENSION))


class Rows(dict):
    """Rows by name; what is assigned is copied, as gossip.moves asks of a state."""

    def __init__(self, array):
        for row, value in enumerate(array):
            self[row] = value

    def __setitem__(self, row, value):
        super().__setitem__(row, np.array(value))


@given(moves, st.integers(0, 1000))
def test_a_move_in_place_is_its_matrix_applied(move, seed):
    before = random_state(seed)
    state = Rows(before)
    move.apply(state)
    expected = dense(move, range(ROWS)) @ before
    np.testing.assert_allclose(np.stack([state[row] for row in range(ROWS)]), expected, atol=1e-12)


@given(st.lists(moves, min_size=1, max_size=6), st.integers(0, 1000))
def test_later_matrices_stand_on_the_left(sequence, seed):
    before = random_state(seed)
    state = Rows(before)
    for move in sequence:
        move.apply(state)
    matrix = product(dense(move, range(ROWS)) for move in sequence)
    np.testing.assert_allclose(np.stack([state[row] for row in range(ROWS)]), matrix @ before, atol=1e-10)


@given(st.lists(moves, min_size=1, max_size=6))
def test_a_consensus_with_empty_accumulators_is_a_fixed_point(sequence):
    state = Rows([[0.0 if row == ROWS - 1 else 2.5] * DIMENSION for row in range(ROWS)])
    for move in sequence:
        move.apply(state)
    for row in range(ROWS - 1):
        np.testing.assert_allclose(state[row], 2.5, atol=1e-12)


@given(several, st.integers(0, 1000))
def test_an_average_keeps_the_sum(chosen, seed):
    before = random_state(seed)
    state = Rows(before)
    Average(chosen).apply(state)
    np.testing.assert_allclose(sum(state.values()), before.sum(0), atol=1e-12)


@given(several.filter(lambda chosen: 0 not in chosen), st.floats(0.01, 0.5), st.integers(0, 1000))
def test_elastic_moves_keep_the_sum_of_workers_and_center(chosen, alpha, seed):
    before = random_state(seed)
    state = Rows(before)
    Elastic(chosen, 0, alpha).apply(state)
    np.testing.assert_allclose(sum(state.values()), before.sum(0), atol=1e-12)


@given(st.lists(st.tuples(rows, rows, st.booleans()), max_size=30), st.integers(0, 1000))
def test_pushes_and_merges_keep_mass_and_the_weighted_sum(events, seed):
    """Over any schedule of pushes, with messages in flight for any time: sum lambda and sum lambda w."""
    state = Rows(random_state(seed))
    shares = [TOTAL // ROWS] * ROWS
    shares[0] += TOTAL - sum(shares)
    before = sum(share / TOTAL * state[row] for row, share in enumerate(shares))
    in_flight = []
    for number, (sender, receiver, deliver) in enumerate(events):
        if sender != receiver:
            shares[sender], sent = halve(shares[sender])
            Copy(("message", number), sender).apply(state)
            in_flight.append((("message", number), receiver, sent))
        if deliver and in_flight:
            message, to, sent = in_flight.pop(0)
            Merge(to, message, merge_weight(shares[to], sent)).apply(state)
            shares[to] += sent
        assert sum(shares) + sum(sent for _, _, sent in in_flight) == TOTAL
        after = sum(share / TOTAL * state[row] for row, share in enumerate(shares))
        after = after + sum(sent / TOTAL * state[message] for message, _, sent in in_flight)
        np.testing.assert_allclose(after, before, atol=1e-12)
