"""Fashion-MNIST (articles of clothing, 28x28, 60,000 / 10,000) from idx files. Imports base, files, idx and sources."""

from __future__ import annotations

from typing import Literal

from trainers.data.base import DATA, FilesConfig
from trainers.data.files import Published
from trainers.data.idx import mnist_like
from trainers.data.sources import Sets

_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_PUBLISHED = Published(
    "fashion_mnist",
    ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "FashionMNIST"),
    "https://github.com/zalandoresearch/fashion-mnist",
    gzipped=True,
)
_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}


class FashionMnistConfig(FilesConfig):
    """Options of Fashion-MNIST."""

    name: Literal["fashion_mnist"] = "fashion_mnist"


@DATA.register(FashionMnistConfig)
def fashion_mnist(config: FashionMnistConfig) -> Sets:
    """Reads Fashion-MNIST."""
    return mnist_like(_PUBLISHED, _ADDRESS, _MD5, config)
