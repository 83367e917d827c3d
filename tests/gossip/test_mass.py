"""Shares: nothing is lost or made by any arithmetic on them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.mass import TOTAL, Ledger, halve, merge_weight, share_out

pytestmark = pytest.mark.timeout(60)

shares = st.integers(0, TOTAL)


@given(st.integers(1, 5000))
def test_shares_add_up_to_the_whole_and_differ_by_one_at_most(workers):
    parts = share_out(workers)
    assert len(parts) == workers
    assert sum(parts) == TOTAL
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_is_refused(workers):
    with pytest.raises(ValueError, match=f"got {workers} workers, expected at least 1"):
        share_out(workers)


@given(shares)
def test_halving_conserves_and_leaves_the_odd_share_with_the_sender(own):
    kept, sent = halve(own)
    assert kept + sent == own
    assert kept - sent in (0, 1)


def test_who_has_one_share_sends_nothing():
    assert halve(1) == (1, 0)
    assert halve(0) == (0, 0)


@given(shares, st.integers(1, TOTAL))
def test_the_merge_weight_is_the_messages_part_of_both(own, incoming):
    weight = merge_weight(own, incoming)
    assert weight == pytest.approx(float(Fraction(incoming, own + incoming)), rel=1e-15)
    assert 0 < weight <= 1


@given(st.integers(1, TOTAL))
def test_a_receiver_without_mass_takes_the_message_as_it_is(incoming):
    assert merge_weight(0, incoming) == 1.0


@given(
    weights=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=5),
    events=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=60),
)
def test_pushes_and_merges_conserve_the_sum_of_mass_times_weight(weights, events):
    """Sum lambda w over workers and messages in flight, for any order of pushing and reading."""
    masses = share_out(len(weights))
    mail: list[list[tuple[float, int]]] = [[] for _ in weights]

    def totals() -> tuple[int, Fraction]:
        parts = [*zip(weights, masses, strict=True), *(letter for box in mail for letter in box)]
        return sum(mass for _, mass in parts), sum((Fraction(w) * mass for w, mass in parts), Fraction()) / TOTAL

    mass_before, mean_before = totals()
    for sender, receiver, reads in events:
        sender, receiver = sender % len(weights), receiver % len(weights)
        if reads and mail[receiver]:
            weight, sent = mail[receiver].pop(0)
            share = merge_weight(masses[receiver], sent)
            weights[receiver] += share * (weight - weights[receiver])
            masses[receiver] += sent
        elif sender != receiver:
            masses[sender], sent = halve(masses[sender])
            mail[receiver] += [(weights[sender], sent)] if sent else []
    mass_after, mean_after = totals()
    assert mass_after == mass_before == TOTAL
    assert float(mean_after - mean_before) == pytest.approx(0, abs=1e-9)


def test_a_ledger_is_balanced_when_every_share_is_somewhere():
    assert Ledger({(0, 0): TOTAL - 5}, in_flight=3, lost=2, taken=0).balanced
    assert not Ledger({(0, 0): TOTAL - 5}, in_flight=3, lost=1, taken=0).balanced
