"""MNIST-M: the mixture by hand, what depends on what, the nested subsets, and what cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from support.idx import idx

from trainers.data import DATA, build

pytestmark = pytest.mark.timeout(30)
CONFIG = TypeAdapter(DATA.field())
TRAIN, TEST = 480, 20


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "mnist").mkdir()
    for half, count in (("train", TRAIN), ("t10k", TEST)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)
        (tmp_path / "mnist" / f"{half}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / "mnist" / f"{half}-labels-idx1-ubyte").write_bytes(idx(labels))
    np.savez(tmp_path / "crops.npz", images=rng.integers(0, 256, (3, 40, 30, 3)).astype(np.uint8))
    return tmp_path


def built(folder, **options):
    given = {"root": str(folder), "backgrounds": str(folder / "crops.npz"), "normalize": False, "batch_size": 2}
    return build(CONFIG.validate_python({"name": "mnist_m", **given, **options}))


def whole(batches):
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    return (255 * x).round().to(torch.uint8).numpy(), y


def test_each_digit_is_the_distance_to_a_patch_of_a_background(folder):
    data = built(folder)
    assert (data.shape, data.classes, data.train_size, data.test_size) == ((3, 28, 28), 10, 440, TEST)
    raw = (folder / "mnist" / "train-images-idx3-ubyte").read_bytes()[16:]
    digits = np.frombuffer(raw, np.uint8).reshape(TRAIN, 28, 28)[:5].astype(int)
    crops = np.load(folder / "crops.npz")["images"].astype(int)
    places = set()
    for digit, mixed in zip(digits, whole(data.train_eval_batches())[0], strict=False):
        found = [
            (number, top, left)
            for number, crop in enumerate(crops)
            for top in range(13)
            for left in range(3)
            if (abs(crop[top : top + 28, left : left + 28] - digit[..., None]).transpose(2, 0, 1) == mixed).all()
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 2


def test_a_seed_makes_one_set_for_ever_and_another_seed_another(folder):
    x, y = whole(built(folder).train_eval_batches())
    again, _ = whole(built(folder).train_eval_batches())
    other, labels = whole(built(folder, mix_seed=1).train_eval_batches())
    assert np.array_equal(x, again) and not np.array_equal(x, other) and torch.equal(y, labels)


def test_the_validation_digits_are_the_last_and_never_trained_on(folder):
    usual, chosen = built(folder), built(folder, held_out="validation")
    assert (chosen.train_size, chosen.test_size) == (440, 40)
    assert np.array_equal(whole(usual.train_eval_batches())[0], whole(chosen.train_eval_batches())[0])
    labels = (folder / "mnist" / "train-labels-idx1-ubyte").read_bytes()[8:]
    assert whole(chosen.test_batches())[1].tolist() == list(labels[440:])


def test_limited_subsets_are_balanced_nested_and_the_same_images(folder):
    everything = {image.tobytes() for image in whole(built(folder).train_eval_batches())[0]}
    smaller: set[bytes] = set()
    for count in (10, 100, 250):
        x, y = whole(built(folder, train_samples=count).train_eval_batches())
        assert torch.bincount(y).tolist() == [count // 10] * 10
        images = {image.tobytes() for image in x}
        assert smaller < images < everything and len(images) == count
        smaller = images


def test_backgrounds_come_from_a_folder_too(folder):
    (folder / "images" / "more").mkdir(parents=True)
    for number, crop in enumerate(np.load(folder / "crops.npz")["images"]):
        Image.fromarray(crop).save(folder / "images" / ("more" if number else ".") / f"{number}.png")
    stored = whole(built(folder).train_eval_batches())[0]
    assert np.array_equal(whole(built(folder, backgrounds=str(folder / "images")).train_eval_batches())[0], stored)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, r"data\.backgrounds: found no .*bad\.npz.*expected a folder of images"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), r"bad\.npz: cannot be read as \.npz"),
        (lambda path: np.savez(path, other=np.zeros(1)), r"bad\.npz: got no array images"),
        (lambda path: np.savez(path, images=np.zeros((2, 40, 40, 3))), r"got images float64 \[2, 40, 40, 3\]"),
        (lambda path: np.savez(path, images=np.zeros((1, 40, 20, 3), np.uint8)), r"images\[0\]: is 20x40 pixels"),
        (lambda path: np.savez(path, images=np.zeros((0, 40, 40, 3), np.uint8)), r"bad\.npz holds no images"),
        (lambda path: path.mkdir(), r"bad\.npz holds no images"),
        (lambda path: (path.mkdir(), (path / "a.png").write_bytes(b"no")), r"a\.png: cannot be read as an image"),
    ],
)
def test_backgrounds_that_cannot_be_used_say_why(folder, write, says):
    write(folder / "bad.npz")
    with pytest.raises(ValueError, match=says) as caught:
        built(folder, backgrounds=str(folder / "bad.npz"))
    assert len(str(caught.value).splitlines()) <= 2
