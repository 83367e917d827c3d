"""The CUDA driver's own calls, through ctypes, in the context that torch uses. Imports torch.

What the driver refuses it tells its caller alone. The runtime, which torch goes through, remembers an error as well,
and torch raises it at whatever is launched next.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import torch

_ALREADY_LOCKED = 712
_PORTABLE = 1
"""Pages are locked for every context, not only for the one that is current."""


class DriverError(OSError):
    """The driver refused; its number, if it gave one, is `errno`."""


class Driver:
    """Of one GPU. May be used by several threads at once.

    Args:
        device: which.

    Raises:
        DriverError: there is no such driver here.
    """

    def __init__(self, device: torch.device) -> None:
        number, self._context = ctypes.c_int(), ctypes.c_void_p()
        if device.type != "cuda":
            raise DriverError(f"no CUDA device: {device}")
        try:
            self.library: Any = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DriverError(f"no CUDA driver: {error}") from None
        self.call("cuInit", ctypes.c_uint(0))
        self.call("cuDeviceGet", ctypes.byref(number), ctypes.c_int(device.index or 0))
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), number)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make torch's context of this GPU the calling thread's, whichever thread that is."""
        self.call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def bind(self) -> None:
        """Make torch's context of this GPU the calling thread's for good.

        torch's own choice of a device does not: GPU 0 counts as chosen in a new thread, which has no context yet.
        """
        self.call("cuCtxSetCurrent", self._context)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            DriverError: it refused, or does not know the function.
        """
        try:
            result = getattr(self.library, name)(*arguments)
        except AttributeError as error:
            raise DriverError(f"too old a CUDA driver: {error}") from None
        if result:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(result, ctypes.byref(text))
            raise DriverError(result, f"{name}: {(text.value or b'unknown').decode()}")

    def lock(self, address: int, size: int) -> bool:
        """Lock pages of the host's memory, so that the device reads and writes them by itself.

        Returns:
            Whether they are to be unlocked by the caller: not if somebody, such as a network library, had locked them.
        """
        try:
            with self.current():
                self.call(
                    "cuMemHostRegister_v2", ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_uint(_PORTABLE)
                )
        except DriverError as error:
            if error.errno != _ALREADY_LOCKED:
                raise
            return False
        return True

    def unlock(self, address: int) -> None:
        """Let go of pages that `lock` has locked."""
        with self.current():
            self.call("cuMemHostUnregister", ctypes.c_void_p(address))
