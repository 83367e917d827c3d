"""Lets test modules import the helpers that stand beside them, and sees to it that tests leave nothing behind.

Property tests draw the same examples in every run, and no example is failed for being slow on a busy machine.
"""

import os
import shutil
import signal
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")

os.environ.setdefault("GOSGD_SECRET", "of these tests and no others")

# A background job of a shell ignores Ctrl-C, and so would all processes of these tests.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE / "gossip")]


def pytest_configure(config):
    """A folder for what processes of tests leave among the temporary files, as torchrun does with each run."""
    if not hasattr(config, "workerinput"):
        place = tempfile.mkdtemp(prefix="tests-", dir=tempfile.gettempdir())
        os.environ["TMPDIR"] = place
        config.add_cleanup(lambda: shutil.rmtree(place, ignore_errors=True))


@pytest.fixture(scope="session", autouse=True)
def fork_server():
    """Started where no test works, of whose folder it would seem to be."""
    forkserver.ensure_running()


def pytest_collection_modifyitems(items):
    """Leaves out what is marked as slow, unless it is asked for."""
    if not os.environ.get("GOSGD_SLOW_TESTS"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: GOSGD_SLOW_TESTS=1 runs it"))


@pytest.fixture(scope="session", autouse=True)
def shared_memory_of_these_tests():
    """A place of their own for job directories: other jobs on this machine neither disturb nor are disturbed."""
    if not Path("/dev/shm").is_dir():
        yield
        return
    place = tempfile.mkdtemp(prefix="tests-", dir="/dev/shm")
    before = os.environ.get("GOSGD_SHM_DIR")
    os.environ["GOSGD_SHM_DIR"] = place
    yield
    if before is None:
        del os.environ["GOSGD_SHM_DIR"]
    else:
        os.environ["GOSGD_SHM_DIR"] = before
    shutil.rmtree(place, ignore_errors=True)


def _segments() -> set[str]:
    place = Path(os.environ.get("GOSGD_SHM_DIR", "/dev/shm"))
    return {path.name for path in [*place.glob("gosgd-*"), *place.glob(".gosgd-*")]} if place.is_dir() else set()


@pytest.fixture(autouse=True)
def nothing_left_in_shared_memory(shared_memory_of_these_tests):
    """A test that leaves a job directory in shared memory fails."""
    before = _segments()
    yield
    left = _segments() - before
    assert not left, f"left in shared memory: {sorted(left)}"
