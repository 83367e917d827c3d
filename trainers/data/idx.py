"""The idx format of MNIST and its relatives. Imports base, files and sources."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trainers.data.base import FilesConfig
from trainers.data.files import Published, Remote, broken
from trainers.data.sources import Sets, TensorSource

_UINT8 = 8


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes, plain or gzipped.

    Raises:
        ValueError: the file is truncated, too long, or no idx file of bytes with that many dimensions.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise broken(path, f"cannot be read ({error})") from error
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, _UINT8, dimensions]):
        raise broken(path, f"starts with {data[:4].hex(' ')!r}, expected '00 00 08 {dimensions:02x}' and the sizes")
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, header, 4)]
    if len(data) - header != math.prod(shape):
        raise broken(path, f"has {len(data) - header} bytes of data, its header {shape} asks for {math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def mnist_like(published: Published, address: str, md5s: dict[str, str], config: FilesConfig) -> Sets:
    """Four idx files, `train-` and `t10k-`, images and labels, as grey images [N, 1, H, W] of 10 classes.

    Args:
        published: where they may lie.
        address: of the folder that they are fetched from, gzipped.
        md5s: of the gzipped files, by the names of the files.
        config: says where to look, and whether to fetch.
    """
    files = {name: Remote(f"{address}{name}.gz", md5) for name, md5 in md5s.items()}
    paths = published.locate(config.root, files, download=config.download)
    halves = []
    for half in ("train", "t10k"):
        images_path, labels_path = paths[f"{half}-images-idx3-ubyte"], paths[f"{half}-labels-idx1-ubyte"]
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise broken(labels_path, f"has {len(labels)} labels for the {len(images)} images of {images_path.name}")
        if labels.size and labels.max() > 9:
            raise broken(labels_path, f"has label {labels.max()}, expected 0 ... 9")
        halves.append(TensorSource(torch.tensor(images).unsqueeze(1), torch.tensor(labels).long()))
    train, test = halves
    return Sets(train, test, classes=10)
