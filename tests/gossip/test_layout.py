"""Control words: packing is reversible, and no two facts share a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip import layout
from gossip.layout import FLAG, MASK, Member, State

pytestmark = pytest.mark.timeout(60)

sequences = st.integers(0, (1 << 40) - 1)
generations = st.integers(0, (1 << 22) - 1)


@given(sequences, generations)
def test_packing_is_reversible_and_leaves_the_flag_free(sequence, generation):
    word = layout.pack(sequence, generation)
    assert not word & FLAG
    for kept in (word, word | FLAG):
        assert kept <= MASK
        assert layout.sequence_of(kept) == sequence
        assert layout.generation_of(kept) == generation


@given(st.tuples(generations, sequences), st.tuples(generations, sequences))
def test_later_generations_and_sequences_are_larger_words(one, other):
    assert (layout.pack(one[1], one[0]) < layout.pack(other[1], other[0])) == (one < other)


@given(st.integers(1, 70))
def test_no_two_facts_share_a_word(seats):
    used = [*range(layout.HEADER)]
    for seat in range(seats):
        used += [layout.post(seat) + layout.COMMIT]
        blocks = {layout.details(seat, sequence) for sequence in range(4)}
        assert blocks == {layout.details(seat, 0), layout.details(seat, 1)}, "two blocks, used in turn"
        used += [block + word for block in blocks for word in range(layout.DETAILS_SIZE)]
        receipt = layout.receipt(seats, seat)
        used += [receipt + layout.ACKNOWLEDGED, receipt + layout.RECEIVED, receipt + layout.RECEIVED + 1]
    assert len(used) == len(set(used))
    assert max(used) < layout.size(seats)
    assert layout.PUBLICATION + 4 <= layout.HEADER


def test_members_are_ordered_by_seat_and_states_by_life():
    assert Member(0, 9) < Member(1, 0) < Member(1, 1)
    assert list(State) == sorted(State)
    assert State.ABSENT == 0, "the words of a member that never wrote any"
