"""Reading pickles that hold numpy arrays and basic types, and nothing that could run code. Imports files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from trainers.data.files import broken


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode` as pickles of protocol 2 use it for bytes, without its other codecs."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r} is not allowed")
    return text.encode("latin1")


# The only names a pickled array needs; numpy 1 and numpy 2 spell the module of the first differently.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, only numpy arrays and basic types are read")
        return _ALLOWED[module, name]


def read_arrays(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle, keys as text; strings of Python 2 are decoded as latin-1.

    Raises:
        ValueError: the file is truncated, no pickle of a dictionary, or asks for anything but arrays and basic types.
    """
    try:
        with path.open("rb") as file:
            found = _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise broken(path, f"cannot be unpickled ({str(error) or type(error).__name__})") from error
    if not isinstance(found, dict):
        raise broken(path, f"holds a {type(found).__name__}, expected a dictionary")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}
