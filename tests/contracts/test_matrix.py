"""The `matrix` method: live processes apply the user's matrices, and those that lose a consensus are refused."""

import numpy as np
import pytest
import torch
from support import schedules
from support.remote import RemoteError
from support.workers import make_model

import gossip
from gossip.directory import root
from gossip.methods.matrix import checked

pytestmark = pytest.mark.timeout(60)


def test_live_weights_are_the_products_of_the_schedule(team):
    job = team("matrix", 3, {"schedule": "support.schedules:ring_and_center"})
    job.ask("start")
    center = job.vectors()[0]
    job.ask("perturb")
    stacked = np.vstack([center, job.vectors()])
    for step in range(7):
        job.ask("steps", 1, 0.0)
        given = schedules.ring_and_center(step, 3)
        if given is not None:
            stacked = checked(given, 3, "") @ stacked
        np.testing.assert_allclose(job.vectors(), stacked[1:], rtol=1e-5, atol=1e-6)
    assert job.last(job.ask("close")) is job.workers[0]
    np.testing.assert_allclose(job.vectors()[0], stacked[0], rtol=1e-5, atol=1e-6)


def test_a_schedule_without_central_variable_ends_with_the_mean(team):
    job = team("matrix", 2, {"schedule": "support.schedules:averaging"})
    job.ask("start")
    job.ask("perturb")
    before = job.vectors()
    job.ask("steps", 1, 0.0)
    assert np.ptp(job.vectors(), 0).max() < 1e-6
    last = job.last(job.ask("close"))
    np.testing.assert_allclose(last.ask("vector"), before.mean(0), rtol=1e-5, atol=1e-6)


def test_it_counts_what_it_sent(team):
    job = team("matrix", 3, {"schedule": "support.schedules:ring_and_center"})
    job.ask("start")
    job.ask("steps", 6, 0.0)
    exchanges = [stats["exchanges"] for stats in job.ask("stats")]
    assert exchanges == [4, 4, 4]
    # Twice a ring of one message each, twice everybody with the central variable, which worker 0 keeps.
    assert [stats["sent"] for stats in job.ask("stats")] == [2 * 1 + 2 * 2, 2 * 1 + 2 * 1, 2 * 1 + 2 * 1]
    job.ask("close")


def test_the_central_variable_survives_a_checkpoint(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        monkeypatch.delenv(name, raising=False)
    schedule = "support.schedules:ring_and_center"

    def steps(exchange, count):
        for _ in range(count):
            exchange.flat.vector.add_(1.0)
            exchange.step()

    whole = gossip.build("matrix", make_model("mlp"), schedule=schedule)
    steps(whole, 5)
    state, weights, at = whole.state_dict(), whole.flat.vector.clone(), whole.steps
    steps(whole, 4)
    resumed = gossip.build("matrix", make_model("mlp"), schedule=schedule)
    resumed.flat.vector.copy_(weights)
    resumed.load_state_dict(state)
    resumed.start(at)
    steps(resumed, 4)
    assert torch.equal(resumed.flat.vector, whole.flat.vector)
    for exchange in (whole, resumed):
        assert exchange.close()
    assert torch.equal(resumed.flat.vector, whole.flat.vector)


def test_the_central_variable_starts_with_the_weights_where_no_checkpoint_of_worker_0_is_left(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        monkeypatch.delenv(name, raising=False)
    exchange = gossip.build("matrix", make_model("mlp"), schedule="support.schedules:ring_and_center")
    exchange.load_state_dict({"central": True})
    exchange.start(100)
    weights = exchange.flat.vector.clone()
    assert exchange.close()
    assert torch.equal(exchange.flat.vector, weights), "which is w~ now"


@pytest.mark.parametrize(
    ("schedule", "complaint"),
    [
        ("support.schedules:wrong_shape", r"step 0: got a matrix of shape \[4, 4\], expected \[2, 2\] .*1 workers"),
        ("support.schedules:wrong_sum", r"step 0: got a sum of 0\.9 in row 1, expected 1"),
        ("support.schedules:no_matrix", "step 0: got str, expected a matrix of numbers"),
        ("support.schedules:of_step_only", r"schedule 'support.schedules:of_step_only': too many positional arguments"),
        ("support.schedules:nothing", "module 'support.schedules' has no 'nothing'"),
        ("support.schedules:np", "is a module, expected a function of step and workers"),
    ],
)
def test_a_schedule_that_keeps_no_consensus_is_refused_at_once(monkeypatch, schedule, complaint):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        monkeypatch.delenv(name, raising=False)
    before = list(root().glob("*gosgd-*"))
    with pytest.raises(ValueError, match=complaint):
        gossip.build("matrix", make_model("mlp"), schedule=schedule)
    assert list(root().glob("*gosgd-*")) == before


def test_rows_that_are_rounded_keep_a_consensus_for_any_number_of_steps():
    rounded = checked(np.full((3, 3), 0.3333333), 3, "mine")
    assert abs(rounded.sum(1) - 1).max() < 1e-15


def test_a_negative_entry_is_refused():
    with pytest.raises(ValueError, match="got -1 in row 1, column 3, expected 0 or more"):
        checked(schedules.negative(0, 3), 3, "mine")


def test_a_matrix_that_goes_wrong_later_is_named_with_its_step(team):
    job = team("matrix", 2, {"schedule": "support.schedules:wrong_later"})
    job.ask("start")
    with pytest.raises(RemoteError, match=r"step 4: got a sum of 0\.5 in row 1"):
        job.workers[0].ask("steps", 5, 0.0)
