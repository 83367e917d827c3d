"""Nested state as a skeleton of JSON and a table of tensors, and back, with every type as it was. Imports torch only.

None, booleans, strings, whole numbers of 64 bits, finite floats and lists are themselves in JSON. Everything else is an
object with one key that says what it is: {"tuple": [...]}, {"dict": [[key, value], ...]}, {"tensor": "name"}.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_DEEPEST = 100
_LARGEST = 1 << 63


def take_apart(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """A skeleton that `json` can write, and the tensors it refers to, named after where they are.

    Raises:
        ValueError: something in the state is of a type that no checkpoint holds; the message says where and which.
    """
    tensors: dict[str, Tensor] = {}
    return _bone(state, "", tensors, 0), tensors


def put_together(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    """What `take_apart` was given.

    Raises:
        ValueError: the skeleton is none, or refers to tensors that are not there.
    """
    return _flesh(skeleton, tensors, 0)


def dtype_of(name: str) -> torch.dtype:
    """The dtype that torch prints as `torch.{name}`.

    Raises:
        ValueError: there is none that a file may hold.
    """
    dtype = vars(torch).get(name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"got dtype {name[:80]!r}, expected one of torch's")
    return dtype


def name_of(dtype: torch.dtype) -> str:
    """What `dtype_of` understands."""
    return str(dtype).removeprefix("torch.")


def _bone(value: Any, where: str, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"got state nested deeper than {_DEEPEST} levels in {where}")
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -_LARGEST <= value < _LARGEST else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is bytes:
        return {"bytes": value.hex()}
    if isinstance(value, Tensor):
        return _tensor(value, where, tensors)
    if kind in (list, tuple, torch.Size):
        inside = [_bone(one, f"{where}.{index}", tensors, depth + 1) for index, one in enumerate(value)]
        return inside if kind is list else {"size" if kind is torch.Size else "tuple": inside}
    if kind in (dict, OrderedDict):
        pairs = [
            [_bone(key, f"{where}.{key!r}", tensors, depth + 1), _bone(one, f"{where}.{key}", tensors, depth + 1)]
            for key, one in value.items()
        ]
        if kind is dict:
            return {"dict": pairs}
        # Modules attach their version numbers to the state they give.
        beside = {name: one for name, one in vars(value).items() if name == "_metadata"}
        return {"ordered": pairs, "beside": _bone(beside, f"{where}.", tensors, depth + 1)}
    raise ValueError(
        f"got {kind.__module__}.{kind.__qualname__} in {where.lstrip('.') or 'the state'}, expected None, bool, int,"
        " float, str, bytes, tensors, and lists, tuples and dictionaries of them"
    )


def _tensor(tensor: Tensor, where: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ValueError(
            f"got a {tensor.layout} {tensor.dtype} tensor on {tensor.device} in {where}, expected a plain one"
        )
    name = where.lstrip(".") or "tensor"
    while name in tensors:  # such as of the keys 0 and "0"
        name += "'"
    tensors[name] = tensor.detach()
    last = tensor.dim() == 4 and not tensor.is_contiguous()
    laid = last and tensor.is_contiguous(memory_format=torch.channels_last)
    return {"tensor": name, **({"channels_last": True} if laid else {})}


def _flesh(bone: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    if isinstance(bone, list):
        return [_flesh(one, tensors, depth + 1) for one in bone]
    if not isinstance(bone, dict):
        return bone
    match bone:
        case {"int": str(digits)}:
            return int(digits, 16)
        case {"float": "nan" | "inf" | "-inf" as name}:
            return float(name)
        case {"bytes": str(digits)}:
            return bytes.fromhex(digits)
        case {"tuple": list(inside)}:
            return tuple(_flesh(one, tensors, depth + 1) for one in inside)
        case {"size": list(inside)}:
            return torch.Size(_flesh(one, tensors, depth + 1) for one in inside)
        case {"tensor": str(name)} if name in tensors:
            tensor = tensors[name]
            return tensor.contiguous(memory_format=torch.channels_last) if bone.get("channels_last") else tensor
        case {"dict": list(pairs)}:
            return dict(_pairs(pairs, tensors, depth))
        case {"ordered": list(pairs), "beside": beside}:
            ordered = OrderedDict(_pairs(pairs, tensors, depth))
            for name, one in _flesh(beside, tensors, depth + 1).items():
                if name == "_metadata":
                    ordered._metadata = one  # type: ignore[attr-defined]
            return ordered
    raise ValueError(f"its skeleton holds {str(bone)[:80]}")


def _pairs(pairs: list[Any], tensors: dict[str, Tensor], depth: int) -> Iterator[tuple[Any, Any]]:
    for key, value in pairs:
        yield _flesh(key, tensors, depth + 1), _flesh(value, tensors, depth + 1)
