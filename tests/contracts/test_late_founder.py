"""A founder that comes after the job has started: it brings its share of the mass, and nothing is begun anew."""

import numpy as np
import pytest
from support.remote import until

from gossip.mass import TOTAL, share_out

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def half(team):
    """A job of two that has begun without the second founder, and published its weights after five steps."""
    job = team("gosgd", 2, {"rho": 0.5, "start_timeout_s": 0.1}, absent=[1])
    job.ask("start")
    job.ask("steps", 5, 0.1)
    job.ask("publish")
    return job


def come(job, rank):
    job.workers.append(job.run(rank))
    job.workers[-1].answer()
    job.workers[-1].begin("start")


def test_it_goes_on_from_what_was_published_when_nobody_with_weights_is_left(half):
    published = half.workers[0].ask("vector")
    half.workers.pop().kill()
    come(half, 1)
    (late,) = half.workers
    late.answer()
    assert np.array_equal(late.ask("vector"), published)
    assert late.ask("steps", 1, 0.0) == 6
    assert late.ask("mass") == share_out(2)[1]


def test_it_makes_no_more_of_the_mass_than_there_is(half):
    half.workers.pop().kill()
    come(half, 0)
    half.workers[0].answer()
    come(half, 1)
    until(lambda: half.workers[0].ask("steps", 1, 0.0) and half.workers[1].answered())
    assert half.workers[1].answer() is True
    half.ask("steps", 50, 0.0, 0.001)
    ledger = half.audit()
    assert ledger.balanced
    assert ledger.lost == 0
    assert half.last(half.ask("close")).ask("mass") == TOTAL
