"""Digits, and what `build` does with any data set."""

import multiprocessing
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from support.batches import same, take, whole

from trainers.data import DATA, build, digits

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
CONFIG = TypeAdapter(DATA.field())


def built(**options):
    return build(CONFIG.validate_python(options))


def test_digits_have_a_fixed_stratified_split():
    data = built(name="digits")
    assert (data.shape, data.classes, data.train_size, data.test_size) == ((1, 8, 8), 10, 1437, 360)
    (_, y), (_, held_out) = whole(data.train_eval_batches()), whole(data.test_batches())
    assert (torch.bincount(held_out) / torch.bincount(torch.cat([y, held_out])) - 360 / 1797).abs().max() < 0.01
    assert torch.equal(held_out, whole(built(name="digits").test_batches())[1])


@pytest.mark.parametrize("moved", [False, True], ids=["its_file", "its_file_elsewhere"])
def test_the_digits_are_those_of_scikit_learn(moved, monkeypatch):
    from sklearn.datasets import load_digits

    if moved:
        monkeypatch.setattr(digits, "_FILE", "elsewhere.csv.gz")
    images, labels = load_digits(return_X_y=True)
    assert np.array_equal(digits._table(), np.column_stack((images, labels)))


def test_a_missing_package_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"'digits' needs scikit-learn: pip install 'gosgd\[demo\]'"):
        built(name="digits")


def test_training_samples_have_mean_0_and_variance_1_and_test_samples_the_same_scaling():
    data, plain = built(name="digits"), built(name="digits", normalize=False)
    x, raw = whole(data.train_eval_batches())[0], whole(plain.train_eval_batches())[0]
    assert abs(x.mean()) < 1e-5 and abs(x.var(correction=0) - 1) < 1e-5
    assert raw.min() == 0 and raw.max() == 1
    expected = (whole(plain.test_batches())[0] - raw.mean()) / raw.std(correction=0)
    assert torch.allclose(whole(data.test_batches())[0], expected, atol=1e-5)


def test_images_lie_symmetrically_about_0_where_asked_for(tmp_path):
    x, raw = (whole(built(name="digits", normalize=how).train_eval_batches())[0] for how in ("symmetric", False))
    assert torch.allclose(x, 2 * raw - 1, atol=1e-6)
    np.savez(tmp_path / "table.npz", x=np.eye(10), y=np.arange(10) % 2)
    with pytest.raises(ValueError, match=r"data\.normalize: got symmetric for samples of torch\.float\d+, expected 8"):
        built(name="table", path=str(tmp_path / "table.npz"), normalize="symmetric")


def test_batches_are_float32_and_int64_and_never_alias_the_data():
    data = built(name="digits", batch_size=16)
    stream = data.batches(rank=0, world_size=4, seed=0)
    before = whole(data.train_eval_batches())
    x, y = next(stream)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((16, 1, 8, 8), torch.float32, (16,), torch.int64)
    x.zero_(), y.zero_()
    assert same([before], [whole(data.train_eval_batches())])


def test_an_epoch_of_an_independent_worker_is_the_set_without_its_last_short_batch():
    data = built(name="digits", batch_size=16, train_samples=150)
    stream = data.batches(rank=1, world_size=4, seed=3)
    assert stream.steps_per_epoch == 9
    x, _ = whole(take(stream, 9))
    everything = {tuple(row) for row in whole(data.train_eval_batches())[0].flatten(1).tolist()}
    drawn = [tuple(row) for row in x.flatten(1).tolist()]
    assert len(set(drawn)) == 144 and set(drawn) <= everything


def test_sharded_workers_share_an_epoch_among_them():
    data = built(name="digits", batch_size=10, train_samples=120)
    streams = [data.batches(rank=rank, world_size=4, seed=3, sampling="sharded") for rank in range(4)]
    assert [stream.steps_per_epoch for stream in streams] == [3] * 4
    drawn = whole([batch for stream in streams for batch in take(stream, 3)])[0].flatten(1).tolist()
    assert sorted(drawn) == sorted(whole(data.train_eval_batches())[0].flatten(1).tolist())


def test_smaller_training_sets_are_part_of_larger_ones():
    rows = [
        {
            tuple(row)
            for row in whole(built(name="digits", train_samples=n, normalize=False).train_eval_batches())[0]
            .flatten(1)
            .tolist()
        }
        for n in (50, 100, 730)
    ]
    assert rows[0] < rows[1] < rows[2]
    labels = whole(built(name="digits", train_samples=100).train_eval_batches())[1]
    assert torch.bincount(labels).tolist() == [10] * 10


@pytest.mark.parametrize("loader_workers", [0, 2])
@settings(max_examples=8, deadline=None)
@given(before=st.integers(0, 25), seed=st.integers(0, 1000), sampling=st.sampled_from(["independent", "sharded"]))
def test_a_resume_goes_on_exactly(loader_workers, before, seed, sampling):
    data = built(
        name="digits",
        batch_size=16,
        train_samples=160,
        augment={"crop": 7, "padding": 1, "flip": True},
        loader_workers=loader_workers,
    )
    where = {"rank": 1, "world_size": 2, "seed": seed, "sampling": sampling}
    stream = data.batches(**where)
    take(stream, before)
    state = stream.state_dict()
    expected = take(stream, 12)
    resumed = data.batches(**where)
    resumed.load_state_dict(state)
    assert same(take(resumed, 12), expected)
    data.close()


def test_loader_processes_give_the_same_batches_and_end_with_the_data():
    options = {"name": "digits", "batch_size": 16, "augment": {"crop": 6, "flip": True}}
    plain, read = built(**options), built(**options, loader_workers=2)
    where = {"rank": 2, "world_size": 4, "seed": 9}
    stream = read.batches(**where)
    assert same(take(stream, 100), take(plain.batches(**where), 100))
    assert len(multiprocessing.active_children()) == 2
    read.close()
    assert not multiprocessing.active_children()
    assert same(read.train_eval_batches(), plain.train_eval_batches())
    assert not multiprocessing.active_children()


def test_a_position_of_another_epoch_length_is_refused():
    stream = built(name="digits").batches(rank=0, world_size=1, seed=0)
    with pytest.raises(ValueError, match=r"epochs of 12 batches, these have 89; resume with the same"):
        stream.load_state_dict({"epoch": 0, "position": 3, "steps_per_epoch": 12})


def test_a_restarted_worker_draws_other_samples():
    data = built(name="digits")
    first, second = (data.batches(rank=0, world_size=1, seed=0, incarnation=life) for life in (0, 1))
    assert not same([next(first)], [next(second)])


def test_data_moves_to_another_device():
    data = built(name="digits", augment={"crop": 6, "flip": True}).to("meta")
    x, y = next(data.batches(rank=0, world_size=1, seed=0))
    assert (x.shape, x.device.type, y.device.type) == ((16, 1, 6, 6), "meta", "meta")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train_samples": 5000}, "train_samples 5000, expected at most 1437"),
        ({"augment": {"crop": 12}}, "crop 12, expected 8 or less for 8x8 images"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        built(name="digits", **options)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"batch_size": 2.5}, {"augment": {"crop": 0}}, {"augment": {"scale": 2}}, {"bach_size": 3}],
)
def test_options_out_of_range_do_not_pass_the_schema(options):
    with pytest.raises(ValidationError):
        CONFIG.validate_python({"name": "digits", **options})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("augment", [{}, {"flip": True}, {"crop": 6, "padding": 1, "flip": True}])
@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_gpu_gives_the_batches_of_the_cpu(augment, loader_workers):
    options = {"name": "digits", "augment": augment, "loader_workers": loader_workers}
    where = {"rank": 0, "world_size": 1, "seed": 0}
    here, there = built(**options), build(CONFIG.validate_python(options), device="cuda")
    for (x, y), (gpu_x, gpu_y) in zip(take(here.batches(**where), 100), take(there.batches(**where), 100), strict=True):
        assert gpu_x.is_cuda and gpu_y.is_cuda
        assert torch.allclose(x, gpu_x.cpu(), atol=1e-5) and torch.equal(y, gpu_y.cpu())
    assert torch.equal(whole(here.test_batches())[1], whole(there.test_batches())[1].cpu())
    here.close(), there.close()
