"""Whom a worker sends to."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.peers import CHOOSERS, check_peers, chooser, exponential, ring, uniform

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("name", sorted(CHOOSERS))
def test_nobody_is_chosen_among_nobody(name):
    assert CHOOSERS[name]([], 0, 0, random.Random(0)) is None


@pytest.mark.parametrize("name", sorted(CHOOSERS))
@given(st.sets(st.integers(1, 40), min_size=1), st.integers(0, 1000), st.integers(0, 99))
def test_one_of_the_offered_seats_is_chosen(name, seats, sent, seed):
    assert CHOOSERS[name](sorted(seats), 0, sent, random.Random(seed)) in seats


def test_uniform_chooses_each_seat_equally_often():
    generator = random.Random(0)
    counts = Counter(uniform([0, 1, 3, 5], 2, 0, generator) for _ in range(40_000))
    assert sorted(counts) == [0, 1, 3, 5]
    assert all(abs(count - 10_000) < 400 for count in counts.values()), "4.6 standard deviations"


@pytest.mark.parametrize(("seat", "to"), [(0, 1), (1, 4), (4, 0), (2, 4)])
def test_ring_chooses_the_next_living_seat(seat, to):
    assert ring(sorted({4, 1, 0} - {seat}), seat, 7, random.Random(0)) == to


def test_ring_walks_through_everybody():
    seat, seen = 0, []
    for _ in range(5):
        seat = ring(sorted(set(range(5)) - {seat}), seat, 0, random.Random(0))
        seen.append(seat)
    assert seen == [1, 2, 3, 4, 0]


def test_exponential_doubles_its_distance_in_turn():
    offered = sorted(set(range(8)) - {6})
    assert [exponential(offered, 6, sent, random.Random(0)) for sent in range(6)] == [7, 0, 2, 7, 0, 2]


@pytest.mark.parametrize("workers", [2, 3, 5, 8, 13])
def test_exponential_reaches_everybody_in_one_turn_of_distances(workers):
    """What worker 0 knows has spread to all after the sends at every distance, when everybody sends."""
    rounds = (workers - 1).bit_length()
    informed = {0}
    for sent in range(rounds):
        informed |= {
            exponential(sorted(set(range(workers)) - {seat}), seat, sent, random.Random(0)) for seat in informed
        }
    assert informed == set(range(workers))


def lowest(seats, seat, sent, generator):
    """A chooser of a user's own."""
    return seats[0]


def stubborn(seats, seat, sent, generator):
    return 99


def test_a_function_of_the_users_own_chooses():
    assert chooser(lowest)([2, 5], 1, 0, random.Random(0)) == 2
    assert chooser(f"{__name__}:lowest")([2, 5], 1, 0, random.Random(0)) == 2


def test_a_choice_that_was_not_offered_is_refused():
    with pytest.raises(ValueError, match=r"got 99, expected None or one of the given seats \[2, 5\]"):
        chooser(stubborn)([2, 5], 1, 0, random.Random(0))


@pytest.mark.parametrize(
    ("peers", "complaint"),
    [
        ("unifrom", r"got 'unifrom', expected one of uniform, ring, .* did you mean 'uniform'"),
        ("nowhere:choose", "cannot import 'nowhere'"),
        (f"{__name__}:pytest", "is a module, expected a function"),
        (lambda seats: None, "too many positional arguments"),
    ],
)
def test_what_is_no_chooser_is_refused(peers, complaint):
    with pytest.raises(ValueError, match=complaint):
        chooser(check_peers(peers))
