"""The fence: nothing to do on x86, libatomic or a clear refusal elsewhere."""

import ctypes.util
import platform

import pytest

from gossip import fence

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "i686"])
def test_x86_needs_no_library(machine):
    fence.load(machine, library="/nowhere/libatomic.so")()


@pytest.mark.parametrize(
    "library", ["/nowhere/libatomic.so", ctypes.util.find_library("m") or "libm.so.6"], ids=["missing", "another"]
)
def test_arm_without_libatomic_is_refused_with_the_way_out(library):
    with pytest.raises(ValueError, match=r"got processor 'aarch64' without a usable libatomic .*; install libatomic1"):
        fence.load("aarch64", library)


@pytest.mark.skipif(not ctypes.util.find_library("atomic"), reason="libatomic is not installed")
def test_libatomic_is_called_where_it_is_needed():
    assert fence.load("aarch64")() is None
    assert fence.load("aarch64") is fence.load("aarch64"), "and looked for once"


def test_this_machine_has_a_fence():
    if platform.machine().lower() in ("x86_64", "amd64"):
        assert fence.load()() is None
