"""The python batches that CIFAR-10 and CIFAR-100 share. Imports files, pickles and sources."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trainers.data.files import Published, Remote, broken
from trainers.data.pickles import read_arrays
from trainers.data.sources import Sets, TensorSource

_PIXELS = 3 * 32 * 32


def read_batch(path: Path, label_key: str, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 3, 32, 32] and classes [N] of one batch file.

    Raises:
        ValueError: the file is damaged or holds other arrays.
    """
    held = read_arrays(path)
    data, labels = held.get("data"), held.get(label_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        got = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise broken(path, f"has {got} under 'data', expected uint8 [N, {_PIXELS}]")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(label) is int for label in labels):
        got = f"{len(labels)} entries" if isinstance(labels, list) else type(labels).__name__
        raise broken(path, f"has {got} under {label_key!r}, expected {len(data)} integers")
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        raise broken(path, f"has labels {min(labels)} ... {max(labels)}, expected 0 ... {classes - 1}")
    return torch.tensor(data).view(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.int64)


def read_cifar(
    published: Published,
    archive: Remote,
    root: str,
    *,
    train: Sequence[str],
    test: str,
    label_key: str,
    classes: int,
    download: bool,
) -> Sets:
    """Both halves from their batch files."""
    paths = published.locate(root, dict.fromkeys((*train, test), archive), download=download)
    images, labels = zip(*(read_batch(paths[name], label_key, classes) for name in train), strict=True)
    held_out = TensorSource(*read_batch(paths[test], label_key, classes))
    return Sets(TensorSource(torch.cat(images), torch.cat(labels)), held_out, classes)


def unpack(archive: Path, folder: Path) -> None:
    """Writes the files of a published archive flat into `folder`."""
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                file = members.extractfile(member) if member.isfile() else None
                if file is not None:
                    partial = folder / f"{Path(member.name).name}.part"
                    partial.write_bytes(file.read())
                    partial.replace(partial.with_suffix(""))
    except tarfile.TarError as error:
        raise broken(archive, f"cannot be unpacked ({error})") from error
