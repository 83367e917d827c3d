"""MNIST-M (Ganin and Lempitsky 2015): MNIST digits on patches of natural images, |patch − digit| in each channel.

Imports base, backgrounds, files, mnist and sources. The three sets are those of Blot's thesis, 4.4.3.1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from configs.base import Field
from trainers.data.backgrounds import read_backgrounds
from trainers.data.base import DATA, FilesConfig
from trainers.data.mnist import MnistConfig, mnist
from trainers.data.sources import Sets, TensorSource

_VALIDATION_SHARE = 12
"""One in so many of MNIST's training images is for validation: 5,000 of 60,000, the last ones."""


class MnistMConfig(FilesConfig):
    """Options of MNIST-M; `root` and `download` are MNIST's."""

    name: Literal["mnist_m"] = "mnist_m"
    backgrounds: str = Field(
        min_length=1, description="folder of natural images, or an .npz with an array images [N, H, W, 3] of bytes"
    )
    mix_seed: int = Field(default=0, ge=0, lt=2**32, description="which patch each digit is laid on")
    held_out: Literal["test", "validation"] = Field(
        default="test", description="evaluate on the 10,000 test digits, or on the last 5,000 training digits"
    )


@DATA.register(MnistMConfig)
def mnist_m(config: MnistMConfig) -> Sets:
    """Reads MNIST and lays each digit on a patch of its own: the same for every model and number of samples.

    Training never sees the validation digits, whatever is held out.

    Raises:
        ValueError: files are missing or damaged, or an image is smaller than a digit.
    """
    digits = mnist(MnistConfig(root=config.root, download=config.download))
    train, test = digits.train, digits.test
    assert isinstance(train, TensorSource) and isinstance(test, TensorSource)
    side = train.x.shape[-1]
    images = read_backgrounds(config.backgrounds, side)
    kept = len(train) - len(train) // _VALIDATION_SHARE
    own = _mixed(train.x, train.y, images, np.random.RandomState(config.mix_seed))
    learned = TensorSource(own.x[:kept], own.y[:kept])
    if config.held_out == "validation":
        return Sets(learned, TensorSource(own.x[kept:], own.y[kept:]), digits.classes)
    # A generator of its own: a test digit's patch does not depend on how many training digits there are.
    unseen = np.random.RandomState([config.mix_seed, 1])
    return Sets(learned, _mixed(test.x, test.y, images, unseen), digits.classes)


def _mixed(
    digits: torch.Tensor, labels: torch.Tensor, images: list[npt.NDArray[np.uint8]], draws: np.random.RandomState
) -> TensorSource:
    """|patch − digit| of each digit [N, 1, H, W] and a random patch of a random image, uint8 [N, 3, H, W]."""
    count, _, height, width = digits.shape
    # Three numbers a digit, in the order of the digits: numpy's frozen generator never changes them.
    where: Any = draws.random_sample((count, 3))
    chosen = (where[:, 0] * len(images)).astype(np.int64)
    mixed = np.empty((count, 3, height, width), np.uint8)
    for number, image in enumerate(images):
        rows = np.flatnonzero(chosen == number)
        tops = (where[rows, 1] * (image.shape[0] - height + 1)).astype(np.int64)
        lefts = (where[rows, 2] * (image.shape[1] - width + 1)).astype(np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(image, (height, width), axis=(0, 1))
        mixed[rows] = windows[tops, lefts]
    grey = np.broadcast_to(digits.numpy(), mixed.shape)
    np.subtract(np.maximum(mixed, grey), np.minimum(mixed, grey), out=mixed)
    return TensorSource(torch.from_numpy(mixed), labels)
