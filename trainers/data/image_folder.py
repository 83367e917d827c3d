"""Images in one folder a class: root/train/CLASS/*.png and root/test/CLASS/*.png, or root/CLASS/*.png, split.

Imports base, files, sampling and sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from configs.base import Field, suggestion
from trainers.data.base import DATA, ImageConfig
from trainers.data.files import broken
from trainers.data.sampling import stratified_split
from trainers.data.sources import DatasetSource, Sets, Source, TensorSource

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
_TEST_FOLDERS = ("test", "val")


class ImageFolderConfig(ImageConfig):
    """Options of a folder of images."""

    name: Literal["image_folder"] = "image_folder"
    root: str = Field(min_length=1, description="folder with train/ and test/ (or val/), or with one folder a class")
    size: int = Field(
        default=32, ge=1, description="side of the square: the shorter side is resized to it, the centre kept"
    )
    grayscale: bool = Field(default=False, description="one channel in place of three")
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="held out of each class where there is no test/")
    split_seed: int = Field(default=0, ge=0, lt=2**32, description="which images are held out")
    in_memory: bool = Field(
        default=True, description="decode all once; false: read them when drawn, see loader_workers"
    )


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files decoded when they are read, as uint8 [1 or 3, size, size] and class."""

    def __init__(self, paths: list[Path], labels: list[int], size: int, grayscale: bool) -> None:
        self.paths, self.targets = paths, labels
        self._size, self._mode = size, "L" if grayscale else "RGB"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return decode(self.paths[index], self._size, self._mode), self.targets[index]


def decode(path: Path, size: int, mode: str) -> Tensor:
    """One image as uint8 [channels, size, size].

    Raises:
        ValueError: Pillow is missing, or the file is no image it can read.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ValueError("data set 'image_folder' needs Pillow: pip install 'gosgd[data]'") from error
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert(mode), (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # a damaged image may raise anything
        raise broken(path, f"cannot be read as an image ({str(error) or type(error).__name__})") from error
    pixels = np.array(square, dtype=np.uint8)
    return torch.from_numpy(pixels).view(size, size, -1).permute(2, 0, 1).contiguous()


@DATA.register(ImageFolderConfig)
def image_folder(config: ImageFolderConfig) -> Sets:
    """Reads a folder of images; classes are the folders' names in alphabetical order.

    Raises:
        ValueError: folders are missing, empty, or differ between the two halves.
    """
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise ValueError(
            f"data.root: found no folder {root}, expected one with train/ and test/, or with a folder a class"
        )
    if not (root / "train").is_dir():
        names, paths, labels = _listed(root)
        train, test = stratified_split(labels, max(1, round(config.test_fraction * len(labels))), config.split_seed)
        halves = [([paths[at] for at in half], [labels[at] for at in half]) for half in (train, test)]
    else:
        held_out = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
        if held_out is None:
            raise ValueError(f"data.root: {root} has train/ but no test/ or val/ beside it")
        names, paths, labels = _listed(root / "train")
        halves = [(paths, labels), _listed(held_out, names)[1:]]
    if len(names) < 2:
        raise ValueError(
            f"data.root: {root} has only the class {names[0]!r}, expected at least two folders with images"
        )
    train_half, test_half = (
        _source(ImageFiles(*half, config.size, config.grayscale), config.in_memory) for half in halves
    )
    return Sets(train_half, test_half, len(names))


def _listed(folder: Path, expected: list[str] | None = None) -> tuple[list[str], list[Path], list[int]]:
    """Class names, image paths and their classes below one folder; `expected` are the only classes allowed."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"data.root: {folder} has no folders, expected one for each class")
    classes = names if expected is None else expected
    paths: list[Path] = []
    labels: list[int] = []
    for name in names:
        if name not in classes:
            raise ValueError(f"{folder / name}: class {name!r} is not among those of train/{suggestion(name, classes)}")
        images = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not images:
            raise ValueError(f"{folder / name} has no images ({', '.join(sorted(_SUFFIXES))})")
        paths += images
        labels += [classes.index(name)] * len(images)
    return classes, paths, labels


def _source(files: ImageFiles, in_memory: bool) -> Source:
    labels = torch.tensor(files.targets, dtype=torch.int64)
    if not in_memory:
        return DatasetSource(files, labels)
    decoded: list[Any] = [files[index][0] for index in range(len(files))]
    return TensorSource(torch.stack(decoded), labels)
