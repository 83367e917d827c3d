"""Random streams, epochs, stratified orders and splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.sampling import Order, stratified_order, stratified_split, stream

pytestmark = pytest.mark.timeout(30)
labels = st.lists(st.integers(0, 4), min_size=1, max_size=80)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**40), st.integers(0, 3))
def test_sharded_epochs_are_disjoint_equal_and_complete_but_for_what_fills_no_batch(world, share, batch, seed, epoch):
    batch = min(batch, share)
    size = world * share + seed % world
    shares = [
        Order(size, batch, rank=rank, world_size=world, seed=seed, sampling="sharded").permutation(epoch)
        for rank in range(world)
    ]
    drawn = np.concatenate(shares)
    assert len({len(one) for one in shares}) == 1
    assert len(set(drawn.tolist())) == len(drawn) == world * (share // batch) * batch
    assert drawn.min() >= 0 and drawn.max() < size


def test_sharded_shares_cover_the_whole_set_when_batches_divide_it():
    shares = [Order(24, 3, rank=r, world_size=4, seed=5, sampling="sharded").permutation(2) for r in range(4)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(24))


def test_sharded_epochs_are_split_anew():
    order = Order(24, 3, rank=1, world_size=4, seed=5, sampling="sharded")
    assert set(order.permutation(0).tolist()) != set(order.permutation(1).tolist())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 10), st.integers(0, 2**40), st.integers(0, 5))
def test_an_independent_epoch_is_a_permutation_of_the_whole_set(size, batch, seed, epoch):
    batch = min(batch, size)
    order = Order(size, batch, rank=1, world_size=3, seed=seed)
    drawn = order.permutation(epoch).tolist()
    assert len(set(drawn)) == len(drawn) == order.steps * batch > size - batch


def test_no_two_workers_lives_epochs_or_seeds_share_a_stream():
    permutations = {
        tuple(Order(50, 5, rank=rank, world_size=4, seed=seed, incarnation=life).permutation(epoch).tolist())
        for seed in range(3)
        for rank in range(4)
        for life in range(3)
        for epoch in range(4)
    }
    assert len(permutations) == 3 * 4 * 3 * 4


def test_augmentation_and_order_draw_from_different_streams():
    order = Order(50, 5, rank=0, world_size=1, seed=0)
    assert order.augmentation(0).integers(2**60) != order.loading(0, 0).integers(2**60) != stream(0, 0).integers(2**60)


def test_batches_go_on_over_the_end_of_an_epoch():
    order = Order(11, 3, rank=0, world_size=1, seed=7)
    batches = order.batches(0, 2)
    got = [next(batches) for _ in range(3)]
    assert [(epoch, at) for epoch, at, _ in got] == [(0, 2), (1, 0), (1, 1)]
    assert got[0][2].tolist() == order.permutation(0)[6:9].tolist()
    assert got[2][2].tolist() == order.permutation(1)[3:6].tolist()


@pytest.mark.parametrize(
    ("size", "batch", "world", "sampling", "parts"),
    [
        (10, 16, 4, "independent", ["10 training samples", "batch of 16", "to 10 or less"]),
        (100, 16, 8, "sharded", ["12 training samples", "(100 over 8 workers)", "batch of 16", "to 12 or less"]),
        (3, 1, 8, "sharded", ["3 training samples for 8 workers"]),
        (10, 2, 2, "shared", ["'shared'", "'independent' or 'sharded'"]),
    ],
)
def test_too_small_a_set_is_refused_with_numbers(size, batch, world, sampling, parts):
    with pytest.raises(ValueError) as caught:
        Order(size, batch, rank=0, world_size=world, seed=0, sampling=sampling)
    assert all(part in str(caught.value) for part in parts)


@settings(max_examples=80, deadline=None)
@given(labels, st.integers(0, 80), st.integers(0, 80))
def test_stratified_subsets_are_nested_and_take_the_classes_in_turn(labels, first, second):
    order = stratified_order(labels)
    assert sorted(order.tolist()) == list(range(len(labels)))
    small, large = (order[: min(count, len(labels))] for count in sorted((first, second)))
    assert set(small.tolist()) <= set(large.tolist())
    available = np.bincount(labels, minlength=5)
    taken = np.bincount(np.asarray(labels)[large], minlength=5)
    unfinished = taken[taken < available]
    if len(unfinished):
        assert unfinished.max() - unfinished.min() <= 1 and taken.max() >= unfinished.max()


def test_a_stratified_subset_holds_n_over_classes_of_each():
    labels = np.random.RandomState(1).randint(0, 10, 2000)
    assert np.bincount(labels[stratified_order(labels)[:250]]).tolist() == [25] * 10


def test_the_stratified_order_never_changes():
    assert stratified_order([0, 1, 0, 1, 2, 2, 0]).tolist() == [6, 1, 5, 2, 3, 4, 0]


@settings(max_examples=80, deadline=None)
@given(labels, st.floats(0, 1))
def test_a_stratified_split_is_exact_and_proportional(labels, fraction):
    size = round(fraction * len(labels))
    train, test = stratified_split(labels, size, seed=3)
    assert len(test) == size and sorted([*train.tolist(), *test.tolist()]) == list(range(len(labels)))
    held_out = np.bincount(np.asarray(labels)[test], minlength=5)
    exact = np.bincount(labels, minlength=5) * size / len(labels)
    assert (np.abs(held_out - exact) <= 1 + 1e-9).all()
