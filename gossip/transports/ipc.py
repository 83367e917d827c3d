"""Memory of a GPU that other processes of this host map. Imports gossip.driver and torch.

The driver's own calls are used, through ctypes: what torch exports is counted in files of shared memory that a killed
process leaves behind, is not exported at all from expandable segments in some versions, and dies with what else lies in
the same block of torch's pool. Memory that is mapped is given back when its owner and all who map it have let go of it
or ended; the owner therefore never frees it by itself.
"""

from __future__ import annotations

import ctypes
import logging
from typing import Protocol

import torch
from torch import Tensor

from gossip.driver import Driver, DriverError

_log = logging.getLogger("gosgd")

_HANDLE_BYTES = 64
_LAZY_PEER_ACCESS = 1
_CUDA, _CPU = 2, 1  # kinds of device in DLPack
_KINDS = {torch.float32: (2, 32), torch.float64: (2, 64), torch.float16: (2, 16), torch.bfloat16: (4, 16)}
_WHOLE = 1 << 21
"""Bytes of the blocks that the driver hands out and exports: what is smaller may share one with other memory."""


class Ipc(Protocol):
    """Makes memory that others can map, and maps that of others."""

    def make(self, elements: int, dtype: torch.dtype) -> tuple[Tensor, bytes]:
        """A vector of one's own, and the handle by which others map it."""

    def map(self, handle: bytes, elements: int, dtype: torch.dtype) -> Tensor:
        """Another process's vector.

        Raises:
            DriverError: it cannot be reached from here, or is gone.
        """

    def unmap(self, vector: Tensor) -> None:
        """Let go of what `map` gave."""


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * _HANDLE_BYTES),)


class CudaIpc:
    """Of one GPU, through the context that torch uses, too.

    Args:
        device: which.

    Raises:
        DriverError: there is no such driver here.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._driver = device, Driver(device)

    def check(self) -> None:
        """Try whether memory can be shared.

        Raises:
            DriverError: it cannot.
        """
        pointer, _ = self._allocate(_WHOLE)
        with self._driver.current():
            self._driver.call("cuMemFree_v2", pointer)

    def make(self, elements: int, dtype: torch.dtype) -> tuple[Tensor, bytes]:
        """A vector in memory of its own, not of torch's pool, and its handle.

        Raises:
            DriverError: there is not as much free, or what there is cannot be shared.
        """
        pointer, handle = self._allocate(-(-elements * dtype.itemsize // _WHOLE) * _WHOLE)
        return as_tensor(pointer.value, elements, dtype, self._device), handle

    def _allocate(self, size: int) -> tuple[ctypes.c_uint64, bytes]:
        pointer, handle = ctypes.c_uint64(), _Handle()
        with self._driver.current():
            self._driver.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
            try:
                self._driver.call("cuIpcGetMemHandle", ctypes.byref(handle), pointer)
            except DriverError:
                self._driver.call("cuMemFree_v2", pointer)
                raise
        return pointer, bytes(handle)

    def map(self, handle: bytes, elements: int, dtype: torch.dtype) -> Tensor:
        """Another process's vector; on another GPU, too, a tensor that this one's kernels read as if it were here.

        Raises:
            DriverError: it cannot be reached from here, or is gone.
        """
        pointer = ctypes.c_uint64()
        with self._driver.current():
            given, flags = _Handle.from_buffer_copy(handle), ctypes.c_uint(_LAZY_PEER_ACCESS)
            self._driver.call("cuIpcOpenMemHandle_v2", ctypes.byref(pointer), given, flags)
        return as_tensor(pointer.value, elements, dtype, self._device)

    def unmap(self, vector: Tensor) -> None:
        """Let go of what `map` gave."""
        with self._driver.current():
            self._driver.call("cuIpcCloseMemHandle", ctypes.c_uint64(vector.data_ptr()))


def ipc_of(vector: Tensor) -> Ipc | None:
    """How to share memory of the GPU that a vector is on; None, with a word in the log, where there is no way to."""
    try:
        ipc = CudaIpc(vector.device)
        ipc.check()
    except DriverError as error:
        _log.warning("memory of %s cannot be shared, messages go through the host's memory: %s", vector.device, error)
        return None
    return ipc


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Described(ctypes.Structure):
    """DLPack's DLManagedTensor, with the shape of a vector behind it."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("length", ctypes.c_int64),
    )


def as_tensor(pointer: int, elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory at an address as a vector on a device; who owns the memory must outlive it.

    The device is the caller's word: torch refuses to compute with tensors on two of them, where a kernel may well read
    a peer's memory.
    """
    described = _Described()
    described.data = pointer
    described.device_type, described.device_id = (_CPU, 0) if device.type == "cpu" else (_CUDA, device.index or 0)
    described.ndim, described.length = 1, elements
    described.dtype = _Type(*_KINDS[dtype], 1)
    described.shape = ctypes.addressof(described) + _Described.length.offset
    # torch looks at it once more when the tensor goes, which may be after all that Python keeps.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(described))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    tensor: Tensor = torch.utils.dlpack.from_dlpack(new(ctypes.addressof(described), b"dltensor", None))
    return tensor
