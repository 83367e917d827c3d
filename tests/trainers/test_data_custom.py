"""The user's own data by `package.module:name`."""

import multiprocessing
import random

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from support.batches import same, take, whole
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from trainers.data import DATA, build

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
CONFIG = TypeAdapter(DATA.field())


class Squares(Dataset):
    """Sample i is [i, i²], its class i mod `modulus`."""

    def __init__(self, size=40, modulus=4):
        self.size, self.modulus = size, modulus

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor([float(index), float(index) ** 2]), index % self.modulus


class Noisy(Squares):
    """Squares with a random transform out of each of the usual generators."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.tensor([random.random() + np.random.rand(), float(torch.rand(()))]), y


class Counting(IterableDataset):
    """An endless row cut off at `size`, without a length."""

    def __init__(self, size=40):
        self.size = size

    def __iter__(self):
        return ((torch.tensor([float(at)]), at % 3) for at in range(self.size))


class Bytes(Dataset):
    targets = (0, 1, 1, 0)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((3, 2, 2), 51 * index, dtype=torch.uint8), self.targets[index]


squares = Squares()
tensors = TensorDataset(torch.arange(40.0).view(40, 1), torch.arange(40) % 5)
pair = (Subset(tensors, range(30)), Subset(tensors, range(30, 40)))
plain_loader = DataLoader(squares, batch_size=6, shuffle=True)


def loaders(batch_size=8, workers=0, persistent=False):
    weighted = WeightedRandomSampler(torch.ones(40), 24)
    options = {"num_workers": workers, "persistent_workers": persistent}
    return DataLoader(squares, batch_size, sampler=weighted, **options), DataLoader(Squares(10), 4, **options)


def streams():
    return Counting(), Counting(7)


def mixed():
    return pair[0], DataLoader(Counting(7), 2)


def empty_stream():
    return Counting(0), Counting(7)


def images():
    return Bytes(), Bytes()


def ready(samples):
    return build(CONFIG.validate_python({"name": "digits", "train_samples": samples}))


def wrong():
    return 3


class Strings(Squares):
    def __getitem__(self, index):
        return "text", index


class Triples(Squares):
    def __getitem__(self, index):
        return torch.zeros(1), index, index


class Regression(Squares):
    def __getitem__(self, index):
        return torch.zeros(1), index / 2


class Ragged(Squares):
    def __getitem__(self, index):
        return torch.zeros(1 if index < 30 else 2), index


def built(name, **options):
    return build(CONFIG.validate_python({"name": f"test_data_custom:{name}", **options}))


def test_a_dataset_is_split_once_and_for_all():
    data = built("squares", batch_size=4)
    assert (data.shape, data.classes, data.train_size, data.test_size) == ((2,), 4, 36, 4)
    train, test = (whole(half)[0][:, 0].tolist() for half in (data.train_eval_batches(), data.test_batches()))
    assert sorted(train + test) == list(range(40))
    assert whole(built("squares", test_fraction=0.5).test_batches())[0].shape == (20, 2)


def test_a_class_gets_the_options_that_are_not_ours():
    data = built("Squares", batch_size=3, size=20, modulus=5)
    assert (data.classes, data.train_size, data.batch_size) == (5, 18, 3)


def test_a_pair_of_datasets_with_known_labels():
    data = built("pair", batch_size=4, train_samples=10)
    assert (data.shape, data.classes, data.train_size, data.test_size) == ((1,), 5, 10, 10)
    assert torch.bincount(whole(data.train_eval_batches())[1]).tolist() == [2] * 5


def test_a_plain_loader_lends_its_dataset_and_batch_size_and_the_order_is_drawn_as_configured():
    data = built("plain_loader")
    parts = [data.batches(rank=rank, world_size=2, seed=0, sampling="sharded") for rank in range(2)]
    drawn = whole([batch for part in parts for batch in take(part, part.steps_per_epoch)])[0][:, 0].tolist()
    assert data.batch_size == 6 and len(drawn) == len(set(drawn)) == 36


def test_a_function_that_names_batch_size_gets_it():
    data = built("loaders", batch_size=5, classes=4)
    assert next(data.batches(rank=0, world_size=1, seed=0))[0].shape == (5, 2)


def test_bytes_are_divided_by_255():
    x, y = whole(built("images", batch_size=2).train_eval_batches())
    assert torch.allclose(x[:, 0, 0, 0], torch.tensor([0, 0.2, 0.4, 0.6])) and y.tolist() == [0, 1, 1, 0]


def test_a_function_may_return_data_that_is_ready():
    assert built("ready", samples=70).train_size == 70


def test_loader_processes_draw_reproducible_noise_and_end():
    where = {"rank": 0, "world_size": 2, "seed": 5}
    data = built("Noisy", batch_size=4, loader_workers=2)
    state = torch.get_rng_state()
    stream = data.batches(**where)
    first = take(stream, 20)
    saved = stream.state_dict()
    later = take(stream, 7)
    assert len({float(x[0, 1]) for x, _ in first}) == 20
    assert same(take(data.batches(**where), 20), first)
    other = data.batches(**where)
    other.load_state_dict(saved)
    assert same(take(other, 7), later)
    assert not same(take(data.batches(**(where | {"rank": 1})), 20), first)
    assert torch.equal(torch.get_rng_state(), state)
    stream.close()
    data.close()
    assert not multiprocessing.active_children()


def test_one_loader_process_or_three_draw_the_same_batches():
    where = {"rank": 0, "world_size": 1, "seed": 5}
    one, three = (built("Noisy", batch_size=4, loader_workers=workers) for workers in (1, 3))
    assert same(take(one.batches(**where), 12), take(three.batches(**where), 12))
    one.close(), three.close()


def test_an_evaluation_that_is_abandoned_leaves_no_process():
    data = built("squares", batch_size=2, eval_batch_size=2, loader_workers=2)
    batches = iter(data.train_eval_batches())
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    del batches
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_loader_with_a_sampler_of_its_own_draws_its_own_order(workers, persistent):
    data = built("loaders", classes=4, workers=workers, persistent=persistent)
    assert (data.shape, data.train_size, data.test_size) == ((2,), 24, 10)
    streams = [data.batches(rank=rank, world_size=2, seed=1) for rank in range(2)]
    assert streams[0].steps_per_epoch == 3
    first = [next(streams[at % 2]) for at in range(12)]
    assert not same(first[::2], first[1::2])
    saved = streams[1].state_dict()
    later = take(streams[1], 5)
    assert len(whole(data.train_eval_batches())[1]) == 24 and len(whole(data.test_batches())[1]) == 10
    resumed = data.batches(rank=1, world_size=2, seed=1)
    assert same([next(resumed) for _ in range(6)], first[1::2])
    resumed.load_state_dict(saved)
    assert same(take(resumed, 5), later)
    data.close()
    assert not multiprocessing.active_children()


def test_a_stream_without_length_trains_but_has_no_epochs():
    data = built("streams", batch_size=4, classes=3)
    stream = data.batches(rank=0, world_size=1, seed=0)
    assert data.train_size is None and len(take(stream, 25)) == 25
    with pytest.raises(ValueError, match=r"give train\.steps, not train.epochs"):
        _ = stream.steps_per_epoch
    resumed = data.batches(rank=0, world_size=1, seed=0)
    resumed.load_state_dict(stream.state_dict())
    assert same(take(resumed, 3), take(stream, 3))
    with pytest.raises(ValueError, match="gives fewer batches than the 11"):
        resumed.load_state_dict({"epoch": 0, "position": 11, "steps_per_epoch": None})


def test_a_dataset_may_be_tested_on_a_stream():
    data = built("mixed", batch_size=4, classes=5)
    assert data.train_size == 30 and len(whole(data.test_batches())[1]) == 7


def test_a_stream_without_batches_is_refused():
    with pytest.raises(ValueError, match="training loader gives no batches"):
        next(built("empty_stream", classes=3).batches(rank=0, world_size=1, seed=0))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("squares", {"batch_size": 0}, r"data.batch_size: got 0: .*greater than or equal to 1"),
        ("squares", {"scale": 2}, "squares is not a function, so it takes no options; got scale"),
        (
            "Squares",
            {"sise": 2},
            r"Squares.* does not fit the options given: got an unexpected keyword argument 'sise'",
        ),
        ("squares", {"train_samples": 99}, "train_samples 99, expected at most 36"),
        ("squares", {"test_fraction": 0.99}, "a data set of 40, of which data.test_fraction 0.99 leaves no sample"),
        ("pair", {"classes": 3}, r"class 4, expected 0 \.\.\. 2"),
        ("plain_loader", {"batch_size": 4}, "data.batch_size 4, but its DataLoader makes batches of 6; drop one"),
        ("wrong", {}, r"wrong: got int, expected a Dataset, a DataLoader, or a pair"),
        ("Counting", {"classes": 3}, r"cannot hold out samples .* return \(train, test\)"),
        ("streams", {}, "cannot count the classes .* give data.classes"),
        ("streams", {"classes": 3, "train_samples": 3}, "data.train_samples needs a data set with random access"),
        ("Squares", {"size": 0}, "got a Squares without samples"),
        ("Squares", {"size": 20_000}, "cannot tell the classes of 18000 samples .* give data.classes"),
        ("Strings", {}, r"Strings: got batches of \(tuple, Tensor\), expected \(x, y\): a tensor"),
        ("Triples", {}, r"Triples: got batches of \(Tensor, Tensor, Tensor\), expected \(x, y\)"),
        ("Regression", {}, "Regression: got targets of type float64 .* expected one integer class a sample"),
        ("nothing", {}, "has no 'nothing'"),
    ],
)
def test_data_that_cannot_be_used_says_why(name, options, says):
    with pytest.raises(ValueError, match=says):
        built(name, **options)


def test_samples_of_different_shapes_are_refused_when_they_meet():
    data = built("Ragged", batch_size=4, classes=40)
    with pytest.raises(ValueError, match=r"Ragged: samples .* do not make a batch"):
        next(data.batches(rank=0, world_size=1, seed=0))


@pytest.mark.parametrize("name", ["squares", "streams"])
def test_classes_out_of_range_are_refused_when_they_are_met(name):
    with pytest.raises(ValueError, match=r"got class [23], expected 0 \.\.\. 1"):
        next(built(name, batch_size=12, classes=2).batches(rank=0, world_size=1, seed=0))


def test_a_loader_of_its_own_order_cannot_be_sharded():
    with pytest.raises(ValueError, match="'sharded' needs a data set with random access"):
        built("loaders", classes=4).batches(rank=0, world_size=2, seed=0, sampling="sharded")
