"""Workers that have made all their steps go on exchanging until the others have made theirs, and then all leave."""

import time

import numpy as np
import pytest
from support.remote import until

from gossip.mass import TOTAL, share_out

pytestmark = pytest.mark.timeout(60)


def test_a_finished_worker_answers_those_that_still_train(team):
    job = team("gosgd", 3, {"rho": 0.5})
    job.ask("start")
    job.ask("steps", 5, 0.1)
    early, *others = job.workers
    early.begin("close")
    for worker in others:
        worker.ask("steps", 1, 0.0)
    before = [worker.ask("stats")["received"] for worker in others]
    masses = []
    for _ in range(20):
        for worker in others:
            worker.ask("steps", 5, 0.1, 0.002)
        masses.append(sum(worker.ask("mass") for worker in others))
    assert not early.answered(), "it waits for those that train"
    assert sum(worker.ask("stats")["received"] for worker in others) > sum(before) + 20
    assert min(masses) > TOTAL // 100, "mass comes back"
    assert others[0].ask("lowest"), "who has finished does not evaluate any more"
    for worker in others:
        worker.begin("close")
    outcomes = [worker.answer() for worker in job.workers]
    assert job.last(outcomes).ask("mass") == TOTAL


def test_the_final_model_is_an_average_although_one_worker_trained_on_alone(team):
    job = team("gosgd", 2, {"rho": 0.5})
    job.ask("start")
    job.workers[0].begin("close")
    job.workers[1].ask("steps", 60, 0.1, 0.003)
    alone = job.workers[1].ask("vector")
    job.workers[1].begin("close")
    last = job.last([worker.answer() for worker in job.workers])
    final = last.ask("vector")
    assert not np.array_equal(final, alone)
    assert np.linalg.norm(final - alone) < 0.5 * np.linalg.norm(alone), "and close to where training went"


def test_who_has_to_go_hands_over_its_mass_at_once(team):
    job = team("gosgd", 2, {"rho": 0.5})
    job.ask("start")
    job.ask("steps", 5, 0.1)
    job.workers[0].begin("close", 60.0, False)
    until(lambda: job.workers[1].ask("steps", 1, 0.0) and job.workers[0].answered())
    assert job.workers[0].answer() is False
    assert job.workers[1].ask("mass") == TOTAL
    assert job.workers[1].ask("close") is True


def test_who_has_to_go_before_the_start_waits_for_nobody_and_is_missed_by_nobody(team):
    job = team("gosgd", 3, {"rho": 0.5})
    began = time.monotonic()
    assert job.workers.pop(0).ask("close", 60.0, False) is False
    job.ask("start")
    assert time.monotonic() - began < 20, "of the 120 s for the others to come up"
    ledger = job.audit()
    assert (ledger.balanced, ledger.lost) == (True, share_out(3)[0])
    job.ask("steps", 3, 0.1)
    job.last(job.ask("close"))


@pytest.mark.parametrize("method", ["none", "gosgd"])
def test_a_worker_that_was_taken_out_before_it_came_is_missed_by_nobody(team, method):
    job = team(method, 2, {}, absent=[1])
    job.directory.give_up(1)
    if method == "gosgd":  # nor by the successor of the only one there is
        job.workers.pop().kill()
        job.workers.append(job.run(0))
        job.workers[0].answer()
    job.ask("start")
    job.ask("steps", 3, 0.1)
    assert job.workers[0].ask("close") is True


def test_nobody_stays_for_a_worker_that_does_not_get_on(team):
    job = team("gosgd", 2, {"rho": 0.5})
    job.ask("start")
    began = time.monotonic()
    job.workers[0].ask("close", 0.5)
    assert time.monotonic() - began > 0.5
    assert job.workers[1].ask("close") is True
