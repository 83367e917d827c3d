"""CIFAR-10 (photographs of 10 kinds of thing, 3x32x32, 50,000 / 10,000). Imports base, cifar, files and sources."""

from __future__ import annotations

from typing import Literal

from trainers.data.base import DATA, FilesConfig
from trainers.data.cifar import read_cifar, unpack
from trainers.data.files import Published, Remote
from trainers.data.sources import Sets

_ARCHIVE = Remote("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", unpack)
_PUBLISHED = Published(
    "cifar10", ("cifar-10-batches-py", "cifar10", "cifar-10"), "https://www.cs.toronto.edu/~kriz/cifar.html"
)


class Cifar10Config(FilesConfig):
    """Options of CIFAR-10."""

    name: Literal["cifar10"] = "cifar10"


@DATA.register(Cifar10Config)
def cifar10(config: Cifar10Config) -> Sets:
    """Reads CIFAR-10's python batches."""
    return read_cifar(
        _PUBLISHED,
        _ARCHIVE,
        config.root,
        train=[f"data_batch_{number}" for number in range(1, 6)],
        test="test_batch",
        label_key="labels",
        classes=10,
        download=config.download,
    )
