"""A full memory fence between processes that share pages. Imports nothing of this project.

Publishing a message means: payload first, then the word that announces it. x86 keeps stores in order by itself and
runs without the library; other processors (ARM) reorder them and need the real instruction.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from collections.abc import Callable
from functools import cache

_SEQUENTIALLY_CONSISTENT = 5  # C11 memory_order_seq_cst
_STRONGLY_ORDERED = {"x86_64", "amd64", "i686", "i386"}


def _nothing() -> None:
    """The fence of a strongly ordered processor: the interpreter itself already orders what the compiler could move."""


@cache  # looking for the library starts a process, and every audit needs a fence
def load(machine: str | None = None, library: str | None = None) -> Callable[[], None]:
    """The fence for a processor.

    Args:
        machine: processor name as `platform.machine()` gives it; this machine's by default.
        library: path of libatomic; searched by default.

    Raises:
        ValueError: the processor reorders stores and libatomic is not installed.
    """
    machine = machine or platform.machine()
    if machine.lower() in _STRONGLY_ORDERED:
        return _nothing
    name = library or ctypes.util.find_library("atomic") or "libatomic.so.1"
    try:
        function = ctypes.CDLL(name).atomic_thread_fence
    except (OSError, AttributeError) as error:
        raise ValueError(
            f"got processor {machine!r} without a usable libatomic ({error}), expected libatomic's"
            " atomic_thread_fence: this processor reorders stores; install libatomic1 (Debian) or libatomic (Fedora)"
        ) from error
    function.argtypes = [ctypes.c_int]
    function.restype = None
    return lambda: function(_SEQUENTIALLY_CONSISTENT)
