"""The calls of the CUDA driver, made to a library whose functions are declared as the driver's are."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from gossip.driver import Driver, DriverError
from gossip.transports.ipc import CudaIpc, ipc_of
from gossip.transports.nixl import Engine

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here"),
]
SOURCE = Path(__file__).parents[1] / "support" / "driver.c"
WHICH = torch.device("cuda", 1)


class Library:
    """The library, and what it has been asked for."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name):
        return ctypes.c_int.in_dll(self._library, name).value

    def __setattr__(self, name, value):
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            ctypes.c_int.in_dll(self._library, name).value = value


@pytest.fixture
def library(tmp_path, monkeypatch):
    path, load = tmp_path / "libcuda.so.1", ctypes.CDLL
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", path, SOURCE], check=True)
    monkeypatch.setattr("gossip.driver.ctypes.CDLL", lambda name: load(str(tmp_path / name)))
    return Library(path)


def test_memory_is_made_and_mapped_whatever_its_size(library):
    ipc = CudaIpc(WHICH)
    ipc._device = torch.device("cpu")
    elements = (1 << 31) + 3
    vector, handle = ipc.make(elements, torch.float32)
    assert (len(handle), vector.numel(), library.device) == (64, elements, 1)
    vector[-1] = 5
    mapped = ipc.map(handle, elements, torch.float32)
    assert (mapped[-1], mapped.data_ptr(), library.mapped) == (5, vector.data_ptr(), 1)
    ipc.unmap(mapped)
    assert (library.mapped, library.depth) == (0, 0), "the context of whoever calls is his own again"


def test_memory_that_cannot_be_shared_is_not_kept(library, caplog):
    library.shares = 0
    vector = type("Vector", (), {"device": WHICH})()
    assert ipc_of(vector) is None
    assert "cuIpcGetMemHandle: CUDA_ERROR_NOT_SUPPORTED" in caplog.text
    library.shares = 1
    assert ipc_of(vector) is not None
    assert (library.allocated, library.depth) == (0, 0)


def test_a_thread_that_reads_other_hosts_gpus_has_its_own_gpus_context(library):
    engine = object.__new__(Engine)
    engine._device = WHICH
    engine.enter()
    assert (library.bound, library.device) == (1, 1)


def test_pages_are_locked_by_whoever_comes_first(library):
    driver, page = Driver(WHICH), torch.zeros(1 << 12)
    assert driver.lock(page.data_ptr(), page.nbytes)
    assert ctypes.c_size_t.in_dll(library._library, "size").value == page.nbytes
    assert not driver.lock(page.data_ptr(), page.nbytes)
    driver.unlock(page.data_ptr())
    with pytest.raises(DriverError, match="cuMemHostUnregister: CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"):
        driver.unlock(page.data_ptr())
    assert library.depth == 0


def test_a_function_that_a_driver_does_not_have_is_told_of(library):
    with pytest.raises(DriverError, match=r"too old a CUDA driver: .*cuMemFuture"):
        Driver(WHICH).call("cuMemFuture")
