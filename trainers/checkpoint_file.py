"""The file of one checkpoint: safetensors, self-describing, checksummed. Imports configs.files and trainers.skeleton.

An ordinary safetensors file: the length of the header (8 bytes), the header (JSON), the tensors' bytes. The header's
`__metadata__` begins with the SHA-256 of the whole file, taken with zeros in the place of its own digits; it says what
the file is, and holds the skeleton of the nested state that the tensors belong to. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from configs.files import write_atomically
from trainers.skeleton import dtype_of, name_of, put_together, take_apart

Seen = TypeVar("Seen")
FORMAT = "gosgd checkpoint 1"
_START = b'{"__metadata__":{"sha256":"'
_DIGITS = 64
_LONGEST_HEADER = 64 << 20
_CHUNK = 1 << 20
_CODES = {  # those that every release of safetensors knows; tensors of other types are stored as bytes
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_OF_CODE = {code: dtype for dtype, code in _CODES.items()}


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself.

    Attributes:
        step: local steps behind the weights.
        worker: who wrote it.
        workers: M of its job.
        incarnation: which life of the worker wrote it.
        job: how often the run had been gone on with when its job began.
        method: of the exchange.
        optimizer: of the local steps.
        fingerprint: of the weight vector's layout.
        dimension: elements of the weight vector.
        packages: versions of the libraries.
    """

    step: int
    worker: int
    workers: int
    incarnation: int
    job: int
    method: str
    optimizer: str
    fingerprint: int
    dimension: int
    packages: dict[str, str]


def write(path: Path, about: About, state: dict[str, Any]) -> None:
    """Write a checkpoint: whole, or not at all.

    Args:
        state: nested dictionaries, lists and tuples of tensors and plain values; `vector` holds the weights [D].

    Raises:
        OSError: the disk refused it.
        ValueError: the state holds something that no checkpoint can hold.
    """
    skeleton, tensors = take_apart(state)
    # By falling size of an element, as safetensors does: every tensor is aligned.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    table: dict[str, Any] = {}
    others: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        if tensor.dtype not in _CODES:
            others[name] = [name_of(tensor.dtype), shape]
            shape = [end - start]
        table[name] = {"dtype": _CODES.get(tensor.dtype, "U8"), "shape": shape, "data_offsets": [start, end]}
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asdict(about).items()}
    told |= {"format": FORMAT, "skeleton": json.dumps(skeleton), "other_dtypes": json.dumps(others)}
    header = _START + b"0" * _DIGITS + b'",' + json.dumps(told).encode()[1:]
    header += b"," + json.dumps(table).encode()[1:] if table else b"}"
    header += b" " * (-len(header) % 8)
    if len(header) > _LONGEST_HEADER:
        raise ValueError(f"got a description of {len(header):,} bytes, expected at most {_LONGEST_HEADER:,}")

    def fill(draft: Path) -> None:
        with draft.open("r+b", buffering=0) as file:
            total = hashlib.sha256()
            _add(file, total, memoryview(len(header).to_bytes(8, "little") + header))
            for tensor in tensors.values():
                _add(file, total, _bytes(tensor))
            os.pwrite(file.fileno(), total.hexdigest().encode(), 8 + len(_START))

    write_atomically(path, fill)


def check(path: Path) -> About:
    """What a checkpoint says of itself, once every byte of it has been found as it was written.

    Raises:
        ValueError: it is damaged, or something else; the message names the file and says what is wrong.
    """

    def look(file: BinaryIO, header: bytes) -> About:
        _verify(file, header)
        return _about(_parsed(header)[0])

    return _read(path, look)


def peek(path: Path) -> About:
    """What a checkpoint says of itself, which may be damaged.

    Raises:
        ValueError: that much can be seen already.
    """
    return _read(path, lambda file, header: _about(_parsed(header)[0]))


def read(path: Path) -> tuple[About, dict[str, Any]]:
    """What a checkpoint says of itself and the state it holds, tensors on the CPU.

    Raises:
        ValueError: it is damaged, or something else; the message names the file and says what is wrong.
    """
    return _read(path, _contents)


def _read(path: Path, look: Callable[[BinaryIO, bytes], Seen]) -> Seen:
    try:
        # Whatever lies there, opening it must not wait: a pipe would.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return look(file, _header(file))
    except RecursionError:
        raise ValueError(f"{path}: it is nested too deeply") from None
    except Exception as error:  # whatever hostile bytes make a reader say
        said = str(error).partition("\n")[0][:300]
        raise ValueError(f"{path}: {said or type(error).__name__}") from error


def _header(file: BinaryIO) -> bytes:
    state = os.fstat(file.fileno())
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is no file")
    length = int.from_bytes(file.read(8), "little")
    if not len(_START) + _DIGITS <= length <= min(state.st_size - 8, _LONGEST_HEADER):
        raise ValueError(f"it is cut off or no checkpoint: {state.st_size} bytes with a header of {length}")
    header = file.read(length)
    if not header.startswith(_START):
        raise ValueError("it is no checkpoint of this project")
    return header


def _verify(file: BinaryIO, header: bytes) -> None:
    """Go through the whole file once; the tensors come next again."""
    digits = slice(len(_START), len(_START) + _DIGITS)
    total = hashlib.sha256(len(header).to_bytes(8, "little"))
    total.update(header[: digits.start] + b"0" * _DIGITS + header[digits.stop :])
    while part := file.read(_CHUNK):
        total.update(part)
    if total.hexdigest().encode() != header[digits]:
        raise ValueError("its bytes are not those that were written: the checksum differs")
    file.seek(8 + len(header))


def _parsed(header: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    table = json.loads(header)
    told = table.pop("__metadata__")
    if told.get("format") != FORMAT:
        raise ValueError(f"got format {told.get('format')!r}, expected {FORMAT!r}: another release wrote it")
    return told, table


def _about(told: dict[str, str]) -> About:
    numbers = {name: json.loads(told[name]) for name in ("step", "worker", "workers", "incarnation", "job")}
    numbers |= {name: json.loads(told[name]) for name in ("fingerprint", "dimension")}
    packages = json.loads(told["packages"])
    if not all(type(number) is int and number >= 0 for number in numbers.values()) or not isinstance(packages, dict):
        raise ValueError("its description is none")
    return About(**numbers, method=str(told["method"]), optimizer=str(told["optimizer"]), packages=packages)


def _contents(file: BinaryIO, header: bytes) -> tuple[About, dict[str, Any]]:
    _verify(file, header)
    told, table = _parsed(header)
    others = json.loads(told["other_dtypes"])
    size = os.fstat(file.fileno()).st_size - 8 - len(header)
    tensors: dict[str, Tensor] = {}
    at = 0
    for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        dtype, shape = others.get(name, (entry["dtype"], entry["shape"]))
        dtype = dtype_of(dtype) if name in others else _OF_CODE[dtype]
        if not all(type(length) is int and 0 <= length <= size for length in shape):
            raise ValueError(f"tensor {name[:80]!r} has shape {str(shape)[:80]}")
        if start != at or end != start + math.prod(shape) * dtype.itemsize or end > size:
            raise ValueError(f"tensor {name[:80]!r} is not where the one before it ends, or not as long as its shape")
        flat = torch.empty(end - start, dtype=torch.uint8)
        if end > start and file.readinto(flat.numpy().data) != end - start:  # type: ignore[attr-defined]
            raise ValueError(f"tensor {name[:80]!r} is cut off")
        tensors[name] = flat.view(dtype).reshape(shape)
        at = end
    if at != size:
        raise ValueError(f"{size - at} bytes belong to no tensor")
    about, state = _about(told), put_together(json.loads(told["skeleton"]), tensors)
    vector = state.get("vector") if isinstance(state, dict) else None
    if not isinstance(vector, Tensor) or vector.shape != (about.dimension,):
        raise ValueError(f"it holds no vector of {about.dimension} weights")
    return about, state


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's elements in memory, copied only from another device or into order."""
    laid = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    return laid.reshape(-1).view(torch.uint8).numpy().data


def _add(file: Any, total: Any, part: memoryview) -> None:
    total.update(part)
    while len(part):
        part = part[file.write(part) :]
