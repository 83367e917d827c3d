"""The format of MNIST's files."""

from __future__ import annotations

from typing import Any

import numpy as np


def idx(array: Any) -> bytes:
    """An idx file of unsigned bytes that holds `array`."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
