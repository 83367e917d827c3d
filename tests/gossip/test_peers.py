"""Whom a worker sends to."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.layout import Member
from gossip.mail import Peer
from gossip.peers import CHOOSERS, exponential, ring, uniform

pytestmark = pytest.mark.timeout(60)


def peers(*seats: int) -> list[Peer]:
    return [Peer(Member(seat, 0), [], 0, 0) for seat in seats]


@pytest.mark.parametrize("name", sorted(CHOOSERS))
def test_nobody_is_chosen_among_nobody(name):
    assert CHOOSERS[name]([], 0, 0, random.Random(0)) is None


@pytest.mark.parametrize("name", sorted(CHOOSERS))
@given(st.sets(st.integers(1, 40), min_size=1), st.integers(0, 1000), st.integers(0, 99))
def test_one_of_the_offered_peers_is_chosen(name, seats, sent, seed):
    offered = peers(*seats)
    assert CHOOSERS[name](offered, 0, sent, random.Random(seed)) in offered


def test_uniform_chooses_each_peer_equally_often():
    generator = random.Random(0)
    offered = peers(0, 1, 3, 5)
    counts = Counter(uniform(offered, 2, 0, generator).member.seat for _ in range(40_000))
    assert sorted(counts) == [0, 1, 3, 5]
    assert all(abs(count - 10_000) < 400 for count in counts.values()), "4.6 standard deviations"


@pytest.mark.parametrize(("seat", "to"), [(0, 1), (1, 4), (4, 0), (2, 4)])
def test_ring_chooses_the_next_living_seat(seat, to):
    offered = peers(*({4, 1, 0} - {seat}))
    assert ring(offered, seat, 7, random.Random(0)).member.seat == to


def test_ring_walks_through_everybody():
    seat, seen = 0, []
    for _ in range(5):
        seat = ring(peers(*(set(range(5)) - {seat})), seat, 0, random.Random(0)).member.seat
        seen.append(seat)
    assert seen == [1, 2, 3, 4, 0]


def test_exponential_doubles_its_distance_in_turn():
    offered = peers(*(set(range(8)) - {6}))
    chosen = [exponential(offered, 6, sent, random.Random(0)).member.seat for sent in range(6)]
    assert chosen == [7, 0, 2, 7, 0, 2]


@pytest.mark.parametrize("workers", [2, 3, 5, 8, 13])
def test_exponential_reaches_everybody_in_one_turn_of_distances(workers):
    """What worker 0 knows has spread to all after the sends at every distance, when everybody sends."""
    rounds = (workers - 1).bit_length()
    informed = {0}
    for sent in range(rounds):
        informed |= {
            exponential(peers(*(set(range(workers)) - {seat})), seat, sent, random.Random(0)).member.seat
            for seat in informed
        }
    assert informed == set(range(workers))
