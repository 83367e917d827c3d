"""A worker with another model than the others': refused at the start, and no harm to those that train already."""

from functools import partial

import pytest
from support.remote import RemoteError, until
from support.workers import Team, make_worker

pytestmark = pytest.mark.timeout(60)
REFUSED = "expected the same model on every worker"


@pytest.fixture
def team():
    teams: list[Team] = []

    def make(method: str, workers: int, **options) -> Team:
        """A job whose last worker, who is not there yet, will bring a model of its own."""
        teams.append(Team(method, workers, options, absent=[workers - 1]))
        teams[-1].make = partial(make_worker, method, options, {"kind": "batch_norm", "wrap": method != "fully_sync"})
        return teams[-1]

    yield make
    for one in teams:
        one.end()


@pytest.mark.parametrize("method", ["none", "persyn", "gosgd"])
def test_a_job_with_two_models_does_not_start(team, method):
    job = team(method, 2, **({"tau": 2} if method == "persyn" else {}))
    job.workers.append(job.run(1))
    job.workers[1].answer()
    for worker in job.workers:
        worker.begin("start")
    refused = 0
    for worker in job.workers:
        try:
            worker.answer()
        except RemoteError as error:
            assert REFUSED in str(error)
            refused += 1
    assert refused >= (1 if method == "none" else 2), "without exchange nobody waits for whoever comes later"


def test_who_comes_with_another_model_harms_nobody_and_its_successor_is_taken_in(team):
    job = team("gosgd", 3, rho=0.5, start_timeout_s=0.1)
    job.ask("start")
    right = partial(make_worker, "gosgd", {"rho": 0.5}, {})
    stranger = job.run(2)
    stranger.answer()
    stranger.begin("start")
    with pytest.raises(RemoteError, match=REFUSED):
        stranger.answer()
    job.ask("steps", 20, 0.0, 0.001)
    stranger.kill()
    job.make = right
    job.workers.append(job.run(2))
    job.workers[2].answer()
    job.workers[2].begin("start")
    until(lambda: job.workers[0].ask("steps", 1, 0.0) and job.workers[2].answered())
    assert job.workers[2].answer() is True
    assert job.audit().balanced
    job.last(job.ask("close"))
