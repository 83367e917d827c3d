"""What every exchange method must keep, on real processes: one row of support.methods each."""

import numpy as np
import pytest
import torch
from support.methods import CENTRAL, EVERY, OPTIONS, name_of
from support.remote import RemoteError, until
from support.workers import Team, batch, make_model
from torch import nn

import gossip
from gossip.layout import Member
from gossip.mass import TOTAL

pytestmark = pytest.mark.timeout(110)


@pytest.fixture
def team():
    teams: list[Team] = []

    def make(method: str, workers: int, **options) -> Team:
        teams.append(Team(name_of(method), workers, OPTIONS[method], **options))
        return teams[-1]

    yield make
    for one in teams:
        one.end()


def spread(weights: np.ndarray) -> float:
    return gossip.consensus_error(torch.from_numpy(weights))


@pytest.mark.parametrize("workers", [2, 3])
@EVERY
def test_a_consensus_is_a_fixed_point(team, method, workers):
    job = team(method, workers)
    job.ask("start")
    before = job.vectors()
    assert spread(before) == 0
    job.ask("steps", 40, 0.0)
    after = [*job.vectors()]
    after.append(job.last(job.ask("close")).ask("vector"))
    for vector in after:  # a sum of three divided by three may round
        np.testing.assert_allclose(vector, before[0], rtol=0 if workers == 2 else 1e-6, atol=0)


@pytest.mark.parametrize("method", ["fully_sync", "persyn", "gosgd", *CENTRAL])
def test_workers_that_were_built_apart_start_together(team, method):
    job = team(method, 2, spread=1.0)
    job.ask("start")
    vectors = job.vectors()
    assert spread(vectors) == 0
    torch.manual_seed(0)
    first = np.concatenate([p.detach().flatten() for p in make_model("mlp").parameters()])
    assert not np.allclose(vectors[0][: first.size], first), "and not from where neither of them was"


def test_workers_without_exchange_stay_apart(team):
    job = team("none", 2, spread=1.0)
    job.ask("start")
    before = job.vectors()
    assert spread(before) > 1
    job.ask("still_steps", 0.05)
    assert np.array_equal(job.vectors(), before)


@pytest.mark.parametrize("method", ["persyn", "gosgd"])
def test_consensus_is_reached_without_local_steps(team, method):
    job = team(method, 3)
    job.ask("start")
    job.ask("perturb")
    before, masses = job.vectors(), job.ask("mass")
    if method == "persyn":
        job.ask("steps", 3, 0.0)
    else:
        job.ask("still_steps", 1.5)
    after = job.vectors()
    assert spread(after) < spread(before) / 100
    last = job.last(job.ask("close")).ask("vector")
    weights = masses if any(masses) else [1] * 3
    np.testing.assert_allclose(last, np.average(before, 0, [m / sum(weights) for m in weights]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [method for method in OPTIONS if method not in CENTRAL])
def test_one_worker_ends_with_the_mean(team, method):
    job = team(method, 3)
    job.ask("start")
    job.ask("perturb")
    before, masses = job.vectors(), job.ask("mass")
    last = job.last(job.ask("close"))
    weights = [mass / TOTAL for mass in masses] if any(masses) else None
    np.testing.assert_allclose(last.ask("vector"), np.average(before, 0, weights), rtol=1e-5, atol=1e-6)
    assert last.ask("mass") == (TOTAL if method == "gosgd" else 0)
    assert job.ask("close") == [False] * 3, "a second call does nothing"


@pytest.mark.parametrize("method", [method for method in OPTIONS if method not in CENTRAL])
def test_floating_buffers_are_averaged_and_counters_are_not(team, method):
    job = team(method, 2, kind="batch_norm")
    job.ask("start")
    for rank, worker in enumerate(job.workers):
        worker.ask("fill_buffers", 2.0 + 2 * rank)
    last = job.last(job.ask("close"))
    found = last.ask("buffers")
    np.testing.assert_allclose(found["1.running_mean"], [3.0] * 8, rtol=1e-6)
    np.testing.assert_allclose(found["1.running_var"], [3.0] * 8, rtol=1e-6)
    assert found["1.num_batches_tracked"] == [2.0 + 2 * job.workers.index(last)]


@EVERY
def test_everybody_can_look_at_everybodys_weights(team, method):
    job = team(method, 2)
    job.ask("start")
    job.ask("steps", 5, 0.01)
    job.ask("publish")
    vectors = job.vectors()
    for worker in job.workers:
        seen = worker.ask("published")
        assert [(seat, step) for seat, step, _ in seen] == [(0, 5), (1, 5)]
        np.testing.assert_array_equal(np.stack([vector for *_, vector in seen]), vectors)
        assert worker.ask("total_done") == 10
    assert job.ask("lowest") == [True, False]
    job.last(job.ask("close"))


def local_sgd(workers: int, steps: int, lr: float, average_after) -> list[nn.Module]:
    """M models in one process, trained on the workers' data and averaged where `average_after(step)` says."""
    models = [make_model("mlp") for _ in range(workers)]
    optimizers = [torch.optim.SGD(model.parameters(), lr) for model in models]
    for step in range(steps):
        for rank, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            x, y = batch(rank, step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if average_after(step):
            with torch.no_grad():
                for parameters in zip(*(model.parameters() for model in models), strict=True):
                    mean = torch.stack(list(parameters)).mean(0)
                    for parameter in parameters:
                        parameter.copy_(mean)
    return models


@pytest.mark.parametrize(
    ("method", "average_after"),
    [
        ("none", lambda step: False),
        ("fully_sync", lambda step: True),
        ("persyn", lambda step: (step + 1) % 3 == 0),
    ],
    ids=["none", "fully_sync", "persyn"],
)
def test_training_is_local_sgd_with_averages_where_the_method_has_them(team, method, average_after):
    job = team(method, 2)
    job.ask("start")
    job.ask("steps", 8, 0.1)
    vectors = job.vectors()
    for vector, model in zip(vectors, local_sgd(2, 8, 0.1, average_after), strict=True):
        flat = gossip.build("none", model)
        np.testing.assert_allclose(vector, flat.flat.vector.double(), rtol=1e-4, atol=1e-5)
        flat.close()
    job.last(job.ask("close"))


def test_a_restarted_gossip_worker_gets_weights_and_step_count_from_its_peers(team):
    job = team("gosgd", 2)
    job.ask("start")
    job.ask("steps", 20, 0.1)
    job.workers[1].kill()
    job.workers[1] = job.run(1)
    job.workers[1].answer()
    job.workers[1].begin("start")
    until(lambda: job.workers[0].ask("steps", 1, 0.0) and job.workers[1].answered())
    assert job.workers[1].answer() is True
    assert np.array_equal(*job.vectors())
    assert job.workers[1].ask("steps", 1, 0.0) > 20
    before = sum(job.ask("mass"))
    assert before <= TOTAL
    last = job.last(job.ask("close"))
    assert before <= last.ask("mass") < TOTAL, "mail on its way came back; what the victim held is lost"


def test_mass_fed_to_a_worker_that_dies_before_it_joins_comes_back(team):
    job = team("gosgd", 2)
    job.ask("start")
    job.workers.pop().kill()
    joiner = job.run(1)
    joiner.answer()
    joiner.begin("start")
    until(lambda: job.audit().held.get(Member(1, 1)) == 0)
    joiner.kill()
    before = job.workers[0].ask("mass")
    job.workers[0].ask("steps", 250, 0.0, 0.001)
    assert job.workers[0].ask("stats")["returned"] >= 1
    assert job.workers[0].ask("mass") == before
    assert job.audit().balanced


def test_a_job_whose_workers_all_died_goes_on_from_the_newest_published_weights(team):
    job = team("gosgd", 2)
    job.ask("start")
    job.workers[0].ask("steps", 3, 0.1)
    job.workers[1].ask("steps", 5, 0.1)
    job.ask("publish")
    newest = job.workers[1].ask("vector")
    for rank in (0, 1):
        job.workers[rank].kill()
    assert job.audit().lost == TOTAL
    job.workers = [job.run(rank) for rank in (0, 1)]
    for worker in job.workers:
        worker.answer()
        worker.begin("start")
    job.workers[0].answer()
    assert np.array_equal(job.workers[0].ask("vector"), newest)
    until(lambda: job.workers[0].ask("steps", 1, 0.0) and job.workers[1].answered())
    assert job.workers[1].answer() is True
    assert job.workers[1].ask("steps", 1, 0.0) > 5
    assert sum(stats["mass_reissued"] for stats in job.ask("stats")) == 1
    assert job.audit().balanced
    assert job.last(job.ask("close")).ask("mass") == TOTAL


@pytest.mark.parametrize("late", [0, 1])
def test_gossip_starts_without_a_founder_that_does_not_come_and_takes_it_in_when_it_does(late):
    job = Team("gosgd", 2, {"rho": 0.5, "start_timeout_s": 0.3}, absent=[late])
    try:
        (early,) = job.workers
        early.ask("start")
        early.ask("perturb")
        job.workers.append(job.run(late))
        job.workers[1].answer()
        job.workers[1].begin("start")
        until(lambda: early.ask("steps", 1, 0.0) and job.workers[1].answered())
        assert job.workers[1].answer() is True
        assert np.array_equal(*job.vectors())
        assert job.last(job.ask("close")).ask("mass") == TOTAL, "it brought its share"
    finally:
        job.end()


def test_gossip_counts_what_it_did(team):
    job = team("gosgd", 2)
    job.ask("start")
    for _ in range(20):  # nobody is ahead of the other by more than three steps, whoever has a processor
        job.ask("steps", 3, 0.01, 0.001)
    for stats in job.ask("stats"):
        assert stats["sent"] > 5
        assert stats["received"] > 5
        assert stats["merged_bytes"] == stats["received"] * job.workers[0].ask("vector").size * 4
        assert 0 < stats["mass"] < 1
        assert stats["peers"] == 1
        assert stats["consensus_estimate"] >= 0
        assert stats["staleness_max"] >= stats["staleness_mean"] >= 0
    job.last(job.ask("close"))


def test_full_synchronisation_without_its_wrapper_is_refused(team):
    job = team("fully_sync", 2, wrap=False)
    job.ask("start")
    with pytest.raises(RemoteError, match=r"expected the loop to call `model = exchange\.wrap"):
        job.workers[0].ask("still_steps", 0.1)
