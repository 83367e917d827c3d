"""scikit-learn's handwritten digits (1x8x8, 1,437 / 360), without any download. Imports base, sampling and sources."""

from __future__ import annotations

from typing import Literal

import torch

from trainers.data.base import DATA, ImageConfig
from trainers.data.sampling import stratified_split
from trainers.data.sources import Sets, TensorSource

_TEST_SIZE = 360
_BRIGHTEST = 16.0


class DigitsConfig(ImageConfig):
    """Options of the digits."""

    name: Literal["digits"] = "digits"


@DATA.register(DigitsConfig)
def digits(config: DigitsConfig) -> Sets:
    """Reads the digits; which 360 are held out is fixed, in the same proportion from each class."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("data set 'digits' needs scikit-learn: pip install 'gosgd[demo]'") from error
    images, labels = load_digits(return_X_y=True)
    whole = TensorSource(torch.tensor(images).byte().view(-1, 1, 8, 8), torch.tensor(labels).long())
    train, test = stratified_split(labels, _TEST_SIZE)
    return Sets(whole.subset(train), whole.subset(test), classes=10, full_scale=_BRIGHTEST)
