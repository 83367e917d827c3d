"""Published data sets from files: formats, places and damage."""

import gzip
import pickle

import numpy as np
import pytest
import scipy.io
import torch
from pydantic import TypeAdapter
from support.idx import idx

from trainers.data import DATA, build
from trainers.data.idx import read_idx
from trainers.data.pickles import read_arrays

pytestmark = pytest.mark.timeout(30)
CONFIG = TypeAdapter(DATA.field())


def built(**options):
    return build(CONFIG.validate_python({"batch_size": 2, **options}))


def pixels(data):
    return torch.cat([x for x, _ in data.train_eval_batches()])


def classes(data):
    return torch.cat([y for _, y in data.test_batches()]).tolist()


def mnist_files(train=6, test=4):
    rng = np.random.default_rng(0)
    return {
        f"{half}-{kind}": idx(array)
        for half, count in (("train", train), ("t10k", test))
        for kind, array in (
            ("images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28))),
            ("labels-idx1-ubyte", np.arange(count)),
        )
    }


def write(folder, files, zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("folder", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_read_from_every_usual_place(tmp_path, folder, zipped):
    files = mnist_files()
    write(tmp_path / folder, files, zipped)
    data = built(name="mnist", root=str(tmp_path), normalize=False)
    assert (data.shape, data.classes, data.train_size, data.test_size) == ((1, 28, 28), 10, 6, 4)
    raw = np.frombuffer(files["train-images-idx3-ubyte"][16:], np.uint8).reshape(6, 1, 28, 28)
    assert torch.allclose(pixels(data), torch.tensor(raw) / 255)
    assert classes(data) == [0, 1, 2, 3]


def test_fashion_mnist_lies_beside_mnist(tmp_path):
    write(tmp_path / "MNIST" / "raw", mnist_files(train=6))
    write(tmp_path / "FashionMNIST" / "raw", mnist_files(train=8), zipped=True)
    assert built(name="mnist", root=str(tmp_path)).train_size == 6
    assert built(name="fashion_mnist", root=str(tmp_path)).train_size == 8


@pytest.mark.parametrize(
    ("name", "wanted", "folder", "source"),
    [
        ("mnist", "train-images-idx3-ubyte[.gz] (and 3 more)", "MNIST/raw", "https://"),
        ("fashion_mnist", "train-images-idx3-ubyte[.gz]", "fashion-mnist", "https://github.com/zalandoresearch"),
        ("cifar10", "data_batch_1 (and 5 more)", "cifar-10-batches-py", "https://www.cs.toronto.edu"),
        ("cifar100", "train (and 1 more)", "cifar-100-python", "https://www.cs.toronto.edu"),
        ("svhn", "train_32x32.mat (and 1 more)", "svhn", "http://ufldl.stanford.edu"),
    ],
)
def test_a_missing_file_says_what_was_looked_for_and_where_to_get_it(tmp_path, name, wanted, folder, source):
    with pytest.raises(ValueError) as caught:
        built(name=name, root=str(tmp_path))
    message = str(caught.value)
    assert all(part in message for part in (name, f"found no {wanted}", str(tmp_path / folder), source, "data.root"))
    assert len(message.splitlines()) == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:-1], r"has 783 bytes of data, its header \[1, 28, 28\] asks for 784"),
        (lambda data: data + b"x", "asks for 784"),
        (lambda data: b"\x89PNG" + data, "starts with '89 50 4e 47', expected '00 00 08 03'"),
        (lambda data: data[:9], "expected '00 00 08 03' and the sizes"),
        (lambda data: b"", "starts with ''"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, damage, says):
    path = tmp_path / "images"
    path.write_bytes(damage(idx(np.zeros((1, 28, 28)))))
    with pytest.raises(ValueError, match=says) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"\x1f\x8b\x08rubbish", lambda data: b"no gzip"]
)
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(idx(np.zeros((1, 28, 28))))))
    with pytest.raises(ValueError, match=r"images\.gz: cannot be read"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.arange(5), "has 5 labels for the 6 images"),
        (np.array([0, 1, 2, 3, 4, 10]), "has label 10, expected 0 ... 9"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, says):
    write(tmp_path, mnist_files() | {"train-labels-idx1-ubyte": idx(labels)})
    with pytest.raises(ValueError, match=says):
        built(name="mnist", root=str(tmp_path))


def cifar_batch(count, keys=("labels",), seed=0, top=10):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, top, count).tolist()
    return {
        "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        **dict.fromkeys(keys, labels),
        "filenames": ["a"],
    }


def dumped(batch, protocol=2, as_bytes=False):
    return pickle.dumps({key.encode() if as_bytes else key: value for key, value in batch.items()}, protocol)


def cifar10_files(protocol=2, as_bytes=False):
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {name: dumped(cifar_batch(3, seed=at), protocol, as_bytes) for at, name in enumerate(names)}


@pytest.mark.parametrize(("protocol", "as_bytes"), [(2, False), (2, True), (4, False)])
def test_cifar10_is_read_in_order(tmp_path, protocol, as_bytes):
    write(tmp_path / "cifar-10-batches-py", cifar10_files(protocol, as_bytes))
    data = built(name="cifar10", root=str(tmp_path), normalize=False, augment={"crop": 28, "flip": True})
    assert (data.shape, data.classes, data.train_size, data.test_size) == ((3, 28, 28), 10, 15, 3)
    raw = np.concatenate([cifar_batch(3, seed=at)["data"] for at in range(5)]).reshape(15, 3, 32, 32)
    assert torch.allclose(pixels(data), torch.tensor(raw)[:, :, 2:30, 2:30] / 255)
    assert classes(data) == cifar_batch(3, seed=5)["labels"]


@pytest.mark.parametrize(("labels", "count"), [("fine", 100), ("coarse", 20)])
def test_cifar100_has_fine_and_coarse_labels(tmp_path, labels, count):
    batch = cifar_batch(4, keys=("fine_labels", "coarse_labels"), top=20)
    write(tmp_path / "cifar-100-python", {"train": dumped(batch), "test": dumped(batch)})
    data = built(name="cifar100", root=str(tmp_path), labels=labels)
    assert data.classes == count and classes(data) == batch[f"{labels}_labels"]


class Attack:
    """Unpickles into a call of `open`, which would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Attack(str(tmp_path / "harmed"))}))
    with pytest.raises(ValueError, match=r"batch: cannot be unpickled \(it asks for \w+\.open, only numpy arrays"):
        read_arrays(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (dumped(cifar_batch(3))[:-2000], "cannot be unpickled"),
        (b"", "cannot be unpickled"),
        (b"not a pickle at all", "cannot be unpickled"),
        (pickle.dumps([1, 2]), "holds a list, expected a dictionary"),
        (dumped({"labels": [1]}), "has NoneType under 'data', expected uint8"),
        (dumped({"data": np.zeros((2, 7), np.uint8), "labels": [1, 2]}), r"has uint8 \[2, 7\] under 'data'"),
        (dumped({"data": np.zeros((2, 3072)), "labels": [1, 2]}), r"has float64 \[2, 3072\] under 'data'"),
        (dumped(cifar_batch(3) | {"labels": [1, 2]}), "has 2 entries under 'labels', expected 3 integers"),
        (dumped(cifar_batch(3) | {"labels": [1, 2, 30]}), "has labels 1 ... 30, expected 0 ... 9"),
    ],
)
def test_a_damaged_batch_is_named(tmp_path, contents, says):
    write(tmp_path, cifar10_files() | {"data_batch_3": contents})
    with pytest.raises(ValueError, match=says) as caught:
        built(name="cifar10", root=str(tmp_path))
    assert str(tmp_path / "data_batch_3") in str(caught.value)


def svhn_files(folder, **train):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    arrays = {"X": images, "y": np.array([[1], [9], [10], [3]], np.uint8)}
    scipy.io.savemat(folder / "train_32x32.mat", {**arrays, **train})
    scipy.io.savemat(folder / "test_32x32.mat", arrays)
    return images


def test_svhn_calls_ten_zero(tmp_path):
    images = svhn_files(tmp_path)
    data = built(name="svhn", root=str(tmp_path), normalize=False)
    assert classes(data) == [1, 9, 0, 3]
    assert torch.allclose(pixels(data), torch.tensor(images.transpose(3, 2, 0, 1).copy()) / 255)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"X": np.zeros((2, 2))}, r"has float64 \[2, 2\] under 'X'"),
        ({"y": np.array([1, 2])}, "has no 4 labels of 1 ... 10 under 'y'"),
        ({"y": np.array([1, 2, 3, 11])}, "has no 4 labels"),
    ],
)
def test_an_svhn_file_with_other_arrays_is_named(tmp_path, wrong, says):
    svhn_files(tmp_path, **wrong)
    with pytest.raises(ValueError, match=r"train_32x32\.mat: " + says):
        built(name="svhn", root=str(tmp_path))


@pytest.mark.parametrize("keep", [0, 100, 2000])
def test_a_truncated_mat_file_is_named(tmp_path, keep):
    svhn_files(tmp_path)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train_32x32\.mat: cannot be read as a \.mat file"):
        built(name="svhn", root=str(tmp_path))
