"""Vectorised augmentation of image batches: random crop, with or without padding, and flip. Imports configs only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.nn.functional import pad

from configs.base import Config, Field

Moves = npt.NDArray[np.int64]


class Augment(Config):
    """Options of augmentation; evaluation takes the centre crop of the same size and never flips."""

    crop: int | None = Field(default=None, ge=1, description="side of the square crop; null: the image's own size")
    padding: int = Field(default=0, ge=0, description="black pixels added on each side before cropping")
    flip: bool = Field(default=False, description="mirror every other image, by chance, from left to right")


class Crops:
    """The crops and flips that one shape of image allows.

    Args:
        shape: of a sample, (C, H, W), or (F,) for features, which allow none.

    Raises:
        ValueError: the crop does not fit into the padded image.
    """

    def __init__(self, shape: tuple[int, ...], augment: Augment | None = None) -> None:
        self.shape = shape
        self.padding, self.flip, self.places = 0, False, (1, 1)
        if augment is None:
            return
        if len(shape) != 3:
            raise ValueError(
                f"got samples of shape {shape}, expected images [C, H, W] to crop or flip; drop data.augment"
            )
        channels, height, width = shape
        self.padding, self.flip = augment.padding, augment.flip
        out = (augment.crop or height, augment.crop or width)
        self.places = (height + 2 * self.padding - out[0] + 1, width + 2 * self.padding - out[1] + 1)
        if min(self.places) < 1:
            padded = f" padded by {self.padding}" if self.padding else ""
            raise ValueError(
                f"got data.augment.crop {augment.crop}, expected {min(height, width) + 2 * self.padding} or less"
                f" for {height}x{width} images{padded}"
            )
        self.shape = (channels, *out)

    @property
    def centre(self) -> tuple[int, int]:
        """Top and left of the evaluation crop in the padded image."""
        return (self.places[0] - 1) // 2, (self.places[1] - 1) // 2

    @property
    def moves(self) -> bool:
        """Whether there is more than one place to cut."""
        return self.places != (1, 1)

    def draw(self, count: int, generator: np.random.Generator) -> Moves:
        """Uniform (top, left, flip) of `count` samples, [3, count]."""
        sides = (*self.places, 2 if self.flip else 1)
        return np.stack([generator.integers(side, size=count) for side in sides])

    def pad(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] with the padding around them."""
        return pad(images, [self.padding] * 4) if self.padding else images

    def centred(self, padded: Tensor) -> Tensor:
        """The evaluation crop of padded images, a view."""
        if not self.moves:
            return padded
        (top, left), (_, height, width) = self.centre, self.shape
        return padded[:, :, top : top + height, left : left + width]


class Windows:
    """Cuts batches out of one block of padded samples [N, ...].

    numpy gathers on the CPU: its window gather and in-place flip took half the time of torch's at batch 16.
    """

    def __init__(self, crops: Crops, padded: Tensor) -> None:
        self._crops = crops
        self._on_cpu = padded.device.type == "cpu"
        self._whole: Any = padded.numpy() if self._on_cpu else padded
        if crops.moves:
            _, height, width = crops.shape
            if self._on_cpu:
                self._windows: Any = sliding_window_view(self._whole, (height, width), axis=(2, 3))
            else:
                self._windows = padded.unfold(2, height, 1).unfold(3, width, 1)

    def cut(self, indices: Any, moves: Any) -> Tensor:
        """A fresh batch [B, *crops.shape].

        Args:
            indices: which samples, int64 [B]; like `moves` a numpy array on the CPU, a tensor on another device.
            moves: (top, left, flip) of each, int64 [3, B].
        """
        batch = self._windows[indices, :, moves[0], moves[1]] if self._crops.moves else self._whole[indices]
        if not self._on_cpu:
            return (
                torch.where(moves[2].bool()[:, None, None, None], batch.flip(-1), batch) if self._crops.flip else batch
            )
        if self._crops.flip:
            flipped = np.flatnonzero(moves[2])
            batch[flipped] = batch[flipped, ..., ::-1]
        return torch.from_numpy(batch)
