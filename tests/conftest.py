"""Lets test modules import the helpers that stand beside them, and checks that no test leaves shared memory behind."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "gossip")]


def _segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("gosgd-*")} if Path("/dev/shm").is_dir() else set()


@pytest.fixture(autouse=True)
def nothing_left_in_shared_memory():
    """A test that leaves a job directory in /dev/shm fails."""
    before = _segments()
    yield
    left = _segments() - before
    assert not left, f"left in /dev/shm: {sorted(left)}"
