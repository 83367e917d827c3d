"""scikit-learn's handwritten digits (1x8x8, 1,437 / 360), without any download. Imports base, sampling and sources."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from trainers.data.base import DATA, ImageConfig
from trainers.data.sampling import stratified_split
from trainers.data.sources import Sets, TensorSource

_TEST_SIZE = 360
_BRIGHTEST = 16.0
_FILE = "datasets/data/digits.csv.gz"


class DigitsConfig(ImageConfig):
    """Options of the digits."""

    name: Literal["digits"] = "digits"


@DATA.register(DigitsConfig)
def digits(config: DigitsConfig) -> Sets:
    """Reads the digits; which 360 are held out is fixed, in the same proportion from each class."""
    table = _table()
    images, labels = table[:, :-1], table[:, -1]
    whole = TensorSource(torch.tensor(images, dtype=torch.uint8).view(-1, 1, 8, 8), torch.tensor(labels).long())
    train, test = stratified_split(labels, _TEST_SIZE)
    return Sets(whole.subset(train), whole.subset(test), classes=10, full_scale=_BRIGHTEST)


def _table() -> npt.NDArray[Any]:
    """Brightness of the 64 pixels and the class of each digit, [1797, 65].

    Read from scikit-learn's file: to import scikit-learn costs every worker a second, and each restarted one again.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ValueError("data set 'digits' needs scikit-learn: pip install 'gosgd[demo]'")
    file = Path(package.origin).parent / _FILE
    if file.exists():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.column_stack((images, labels))
