"""MNIST (handwritten digits, 28x28, 60,000 / 10,000) from idx files. Imports base, files, idx and sources."""

from __future__ import annotations

from typing import Literal

from trainers.data.base import DATA, FilesConfig
from trainers.data.files import Published
from trainers.data.idx import mnist_like
from trainers.data.sources import Sets

_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_PUBLISHED = Published("mnist", ("mnist", "MNIST/raw", "MNIST"), _ADDRESS, gzipped=True)
_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}


class MnistConfig(FilesConfig):
    """Options of MNIST."""

    name: Literal["mnist"] = "mnist"


@DATA.register(MnistConfig)
def mnist(config: MnistConfig) -> Sets:
    """Reads MNIST."""
    return mnist_like(_PUBLISHED, _ADDRESS, _MD5, config)
