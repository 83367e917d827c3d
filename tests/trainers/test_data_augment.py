"""Vectorised crops and flips against a loop over single images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.augment import Augment, Crops, Windows

pytestmark = pytest.mark.timeout(30)


def slow(images, indices, moves, size, padding):
    """The same by one image at a time."""
    cut = []
    for index, top, left, flip in zip(indices, *moves, strict=True):
        padded = torch.zeros(images.shape[1], images.shape[2] + 2 * padding, images.shape[3] + 2 * padding)
        padded[:, padding : padding + images.shape[2], padding : padding + images.shape[3]] = images[index].float()
        window = padded[:, top : top + size[0], left : left + size[1]]
        cut.append(torch.flip(window, [-1]) if flip else window)
    return torch.stack(cut)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(2, 7),
    st.integers(2, 7),
    st.integers(0, 2),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 7)),
    st.integers(0, 2**31),
)
def test_batches_equal_a_loop_over_images(channels, height, width, padding, flip, crop, seed):
    crop = None if crop is None else min(crop, height + 2 * padding, width + 2 * padding)
    crops = Crops((channels, height, width), Augment(crop=crop, padding=padding, flip=flip))
    images = torch.randint(0, 256, (9, channels, height, width), dtype=torch.uint8)
    indices = np.random.default_rng(seed).integers(9, size=6)
    moves = crops.draw(6, np.random.default_rng(seed))
    cut = Windows(crops, crops.pad(images)).cut(indices, moves)
    assert cut.dtype == torch.uint8 and cut.is_contiguous() and cut.shape[1:] == crops.shape
    assert torch.equal(cut.float(), slow(images, indices, moves, crops.shape[1:], padding))


def test_every_place_and_both_directions_are_drawn_equally_often():
    crops = Crops((1, 5, 4), Augment(crop=3, flip=True))
    top, left, flip = crops.draw(60_000, np.random.default_rng(0))
    counts = np.bincount((top * 2 + left) * 2 + flip)
    assert len(counts) == 3 * 2 * 2
    assert np.abs(counts - 5000).max() < 6 * 5000**0.5


@pytest.mark.parametrize(("crop", "padding"), [(3, 0), (4, 1), (None, 2), (7, 1), (None, 0)])
def test_the_evaluation_crop_is_the_centre(crop, padding):
    image = torch.arange(36, dtype=torch.uint8).view(1, 1, 6, 6)
    crops = Crops((1, 6, 6), Augment(crop=crop, padding=padding))
    centre = crops.centred(crops.pad(image))
    side = crop or 6
    assert centre.shape == (1, 1, side, side)
    if side <= 6:
        start = (6 - side) // 2
        assert torch.equal(centre, image[:, :, start : start + side, start : start + side])
    else:
        assert centre.sum() == image.sum()


def test_windows_never_alias_the_data():
    images = torch.randint(0, 256, (4, 1, 3, 3), dtype=torch.uint8)
    before = images.clone()
    crops = Crops((1, 3, 3), Augment(flip=True))
    cut = Windows(crops, images).cut(np.arange(4), crops.draw(4, np.random.default_rng(1)))
    cut.zero_()
    assert torch.equal(images, before)


def test_a_crop_larger_than_the_padded_image_is_refused():
    with pytest.raises(ValueError, match=r"crop 40, expected 36 or less for 32x32 images padded by 2"):
        Crops((3, 32, 32), Augment(crop=40, padding=2))


def test_features_cannot_be_cropped():
    with pytest.raises(ValueError, match=r"shape \(7,\), expected images"):
        Crops((7,), Augment(flip=True))
