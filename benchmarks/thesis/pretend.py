"""Small files in the forms that the data sets are published in, to show within seconds that a recipe runs.

Each class is a bright patch of its own on noise. Imports nothing of ours.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt

TRAIN, TEST = 400, 100

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def write(folder: Path) -> Path:
    """CIFAR-10, CIFAR-100, SVHN and MNIST with a few hundred images, natural images, and a table.

    Returns:
        A folder to give as `data.root`; in it lie `backgrounds.npz` and `table.npz`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _cifar(folder / "cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)], "test_batch", "labels", 10)
    _cifar(folder / "cifar-100-python", ["train"], "test", "fine_labels", 100)
    _mnist(folder / "mnist")
    _svhn(folder / "svhn")
    generator = np.random.default_rng(0)
    np.savez(folder / "backgrounds.npz", images=generator.integers(0, 256, (20, 64, 64, 3), np.uint8))
    x = generator.normal(size=(TRAIN, 6))
    np.savez(folder / "table.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    return folder


def images(count: int, classes: int, side: int, channels: int, seed: int) -> tuple[Images, Labels]:
    """Images [N, C, H, W] and their classes [N]."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    x = generator.integers(0, 120, (count, channels, side, side), np.uint8)
    across = side // 4
    for at, label in enumerate(labels):
        row, column = divmod(int(label) % 16, 4)
        x[at, :, row * across : (row + 1) * across, column * across : (column + 1) * across] += 100
    return x, labels


def _cifar(folder: Path, train: list[str], test: str, key: str, classes: int) -> None:
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate([*train, test]):
        x, y = images(TEST if name == test else TRAIN // len(train), classes, 32, 3, seed)
        content = {"data": x.reshape(len(x), -1), key: y.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def _mnist(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for half, count in (("train", 6 * TRAIN), ("t10k", TEST)):
        x, y = images(count, 10, 28, 1, count)
        sizes = b"".join(side.to_bytes(4, "big") for side in (count, 28, 28))
        (folder / f"{half}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + x.tobytes())
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + y.astype(np.uint8).tobytes())


def _svhn(folder: Path) -> None:
    from scipy.io import savemat

    folder.mkdir(exist_ok=True)
    for name, count in (("train_32x32.mat", TRAIN), ("test_32x32.mat", TEST)):
        x, y = images(count, 10, 32, 3, count)
        savemat(folder / name, {"X": x.transpose(2, 3, 1, 0), "y": np.where(y == 0, 10, y)[:, None]})
