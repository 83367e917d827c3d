"""A loop that never calls `start`: workers that were built apart agree on weights before their first local step."""

import numpy as np
import pytest

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(("method", "options"), [("persyn", {"tau": 1}), ("gosgd", {"rho": 0.0})])
def test_every_workers_first_local_step_counts(team, method, options):
    job = team(method, 2, options, spread=1.0)
    begun = job.vectors()
    job.ask("steps", 1, 0.1)
    moved = job.vectors() - begun[0]
    told = team(method, 2, options, spread=1.0)
    told.ask("start")
    told.ask("steps", 1, 0.1)
    np.testing.assert_allclose(moved, told.vectors() - begun[0], rtol=1e-4, atol=1e-6)
    assert np.abs(moved[1]).max() > 1e-3
    job.ask("close")
    told.ask("close")
