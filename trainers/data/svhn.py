"""SVHN (street view house numbers, 3x32x32, 73,257 / 26,032) from its .mat files. Imports base, files and sources."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from trainers.data.base import DATA, FilesConfig
from trainers.data.files import Published, Remote, broken
from trainers.data.sources import Sets, TensorSource

_ADDRESS = "http://ufldl.stanford.edu/housenumbers/"
_PUBLISHED = Published("svhn", ("svhn", "SVHN"), _ADDRESS)
_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


class SvhnConfig(FilesConfig):
    """Options of SVHN."""

    name: Literal["svhn"] = "svhn"


@DATA.register(SvhnConfig)
def svhn(config: SvhnConfig) -> Sets:
    """Reads SVHN's cropped digits; the digit 0, which the files call 10, is class 0."""
    files = {name: Remote(f"{_ADDRESS}{name}", md5) for name, md5 in _MD5.items()}
    paths = _PUBLISHED.locate(config.root, files, download=config.download)
    train, test = (_read(paths[name]) for name in _MD5)
    return Sets(train, test, classes=10)


def _read(path: Path) -> TensorSource:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError("data set 'svhn' needs SciPy to read .mat files: pip install 'gosgd[data]'") from error
    try:
        held = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # a damaged file may raise anything
        raise broken(path, f"cannot be read as a .mat file ({str(error) or type(error).__name__})") from error
    images, labels = held.get("X"), held.get("y")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        got = "nothing" if images is None else f"{images.dtype} {list(images.shape)}"
        raise broken(path, f"has {got} under 'X', expected uint8 [32, 32, 3, N]")
    if labels is None or labels.size != images.shape[3] or not np.isin(labels, range(11)).all():
        raise broken(path, f"has no {images.shape[3]} labels of 1 ... 10 under 'y'")
    x = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return TensorSource(torch.from_numpy(x), torch.from_numpy(labels.ravel().astype(np.int64) % 10))
