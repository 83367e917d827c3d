"""CIFAR-100 (photographs of 100 kinds of thing, 3x32x32, 50,000 / 10,000). Imports base, cifar, files and sources."""

from __future__ import annotations

from typing import Literal

from configs.base import Field
from trainers.data.base import DATA, FilesConfig
from trainers.data.cifar import read_cifar, unpack
from trainers.data.files import Published, Remote
from trainers.data.sources import Sets

_ARCHIVE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", unpack
)
_PUBLISHED = Published(
    "cifar100", ("cifar-100-python", "cifar100", "cifar-100"), "https://www.cs.toronto.edu/~kriz/cifar.html"
)
_CLASSES = {"fine": 100, "coarse": 20}


class Cifar100Config(FilesConfig):
    """Options of CIFAR-100."""

    name: Literal["cifar100"] = "cifar100"
    labels: Literal["fine", "coarse"] = Field(default="fine", description="100 classes, or the 20 groups they form")


@DATA.register(Cifar100Config)
def cifar100(config: Cifar100Config) -> Sets:
    """Reads CIFAR-100's python batches."""
    return read_cifar(
        _PUBLISHED,
        _ARCHIVE,
        config.root,
        train=["train"],
        test="test",
        label_key=f"{config.labels}_labels",
        classes=_CLASSES[config.labels],
        download=config.download,
    )
