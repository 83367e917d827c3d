"""Folders of images."""

import sys

import pytest
import torch
from PIL import Image
from test_data_build import built, same, take, whole

pytestmark = pytest.mark.timeout(30)


def folder(root, counts, size=(6, 6), start=0):
    """One folder a class with images of one grey each."""
    for at, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", size, (start + 10 * at + number,) * 3).save(root / name / f"{number}.png")


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_folder_of_images_with_its_own_test_half(tmp_path, in_memory):
    folder(tmp_path / "train", {"cat": 3, "dog": 2}, size=(12, 6))
    folder(tmp_path / "test", {"dog": 2}, start=100)
    data = built(name="image_folder", root=str(tmp_path), size=4, batch_size=2, normalize=False, in_memory=in_memory)
    assert (data.shape, data.classes, data.train_size, data.test_size) == ((3, 4, 4), 2, 5, 2)
    x, y = whole(data.train_eval_batches())
    assert y.tolist() == [0, 0, 0, 1, 1]
    assert torch.allclose(x[:, 0, 0, 0] * 255, torch.tensor([0.0, 1, 2, 10, 11]))
    assert whole(data.test_batches())[1].tolist() == [1, 1]
    assert next(data.batches(rank=0, world_size=1, seed=0))[0].shape == (2, 3, 4, 4)


def test_reading_images_when_drawn_gives_what_memory_gives(tmp_path):
    folder(tmp_path, {"a": 9, "b": 7, "c": 8}, size=(9, 9))
    options = {"name": "image_folder", "root": str(tmp_path), "size": 8, "batch_size": 4, "test_fraction": 0.25}
    options["augment"] = {"crop": 6, "padding": 1, "flip": True}
    held, read = built(**options), built(**options, in_memory=False)
    assert same(held.test_batches(), read.test_batches()) and held.test_size == 6
    where = {"rank": 0, "world_size": 2, "seed": 4}
    assert same(take(held.batches(**where), 10), take(read.batches(**where), 10))


def test_grey_images_have_one_channel(tmp_path):
    folder(tmp_path, {"a": 4, "b": 4})
    assert built(name="image_folder", root=str(tmp_path), size=5, batch_size=1, grayscale=True).shape == (1, 5, 5)


def spoil_image(root):
    folder(root, {"a": 4, "b": 4})
    path = root / "b" / "2.png"
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: root.rmdir(), "found no folder .*images, expected one with train/ and test/"),
        (lambda root: None, "images has no folders, expected one for each class"),
        (lambda root: folder(root, {"a": 3}), "has only the class 'a', expected at least two"),
        (lambda root: folder(root, {"a": 3, "b": 0}), r"images/b has no images \(\.bmp"),
        (lambda root: folder(root / "train", {"a": 3, "b": 1}), "has train/ but no test/ or val/ beside it"),
        (
            lambda root: (folder(root / "train", {"cat": 3, "dog": 1}), folder(root / "val", {"dogs": 3})),
            r"val/dogs: class 'dogs' is not among those of train/; did you mean 'dog'\?",
        ),
        (spoil_image, r"images/b/2\.png: cannot be read as an image"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(tmp_path, make, says):
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    with pytest.raises(ValueError, match=says):
        built(name="image_folder", root=str(root))


def test_without_pillow_the_error_names_what_to_install(tmp_path, monkeypatch):
    folder(tmp_path, {"a": 2, "b": 2})
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"'image_folder' needs Pillow: pip install 'gosgd\[data\]'"):
        built(name="image_folder", root=str(tmp_path))
