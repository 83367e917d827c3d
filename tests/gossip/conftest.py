"""What tests of the central variable share."""

import pytest

from gossip.directory import JobDirectory


@pytest.fixture
def job():
    """The directory of a job with three seats, of which one has a founder."""
    directory = JobDirectory.create(3, 1)
    yield directory
    directory.remove()
