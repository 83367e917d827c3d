"""What methods with a central variable w~ must keep: their algebra against float64, and what becomes of w~."""

import json
import time
from functools import partial

import numpy as np
import pytest
from support.far_workers import FarTeam
from support.ports import free_port
from support.remote import RemoteError, answers, ask_all, in_process_of_its_own, reaped, until
from support.workers import Team, make_worker
from torch import nn
from torch.distributed import HashStore

import gossip
from gossip.directory import JobDirectory
from gossip.hosts import Hosts
from gossip.job import Job
from gossip.matrices import downpour_fetch, easgd, easgd_async
from gossip.replay import CENTER, Replay, read

pytestmark = pytest.mark.timeout(90)

SERVERS = ["process", "sharded", "hosts"]
"""Where w~ lives; `hosts` is a process, too, of which all workers but the first are on other hosts."""
DRIFT = np.random.default_rng(5)


@pytest.fixture
def team():
    teams: list[Team] = []

    def make(method: str, workers: int, **arguments) -> Team:
        options = arguments.pop("options", {})
        kind = FarTeam if options.get("server") == "hosts" else Team
        options = {name: value for name, value in options.items() if value != "hosts"}
        teams.append(kind(method, workers, options, **arguments))
        return teams[-1]

    yield make
    for one in teams:
        one.end()


def updates(workers: int, steps: int, dimension: int) -> np.ndarray:
    """[M, n, D]: what the workers' local steps will add to their weights."""
    return DRIFT.standard_normal((workers, steps, dimension)).astype(np.float32)


def together(job: Team, drift: np.ndarray) -> np.ndarray:
    """All workers step at the same time; [M, n, D]."""
    for worker, its in zip(job.workers, drift, strict=True):
        worker.begin("drift", its)
    return np.stack([worker.answer() for worker in job.workers])


@pytest.mark.parametrize(
    ("workers", "tau", "order"), [(2, 1, "after_step"), (2, 1, "before_gradient"), (3, 2, "before_gradient")]
)
def test_synchronous_easgd_is_its_matrix(team, workers, tau, order):
    job = team("easgd", workers, options={"tau": tau, "alpha": 0.3, "order": order}, kind="batch_norm", spread=1.0)
    job.ask("start")
    state = np.concatenate([job.vectors()[:1], job.vectors()])
    drift = updates(workers, 7, state.shape[1])
    live = together(job, drift)
    for step in range(7):
        k = easgd(workers, 0.3) if (step + 1) % tau == 0 else np.eye(workers + 1)
        v = np.concatenate([np.zeros((1, state.shape[1])), drift[:, step]])
        state = k @ (state + v) if order == "after_step" else k @ state + v
        np.testing.assert_allclose(live[:, step], state[1:], rtol=1e-5, atol=1e-5)
    for center in job.ask("central"):
        np.testing.assert_allclose(center, state[0], rtol=1e-5, atol=1e-5)
    last = job.last(job.ask("close"))
    assert last is job.workers[0]
    np.testing.assert_allclose(last.ask("vector"), state[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("order", "server"), [("after_step", "process"), ("before_gradient", "sharded"), ("after_step", "hosts")]
)
def test_asynchronous_easgd_is_its_matrices_in_the_order_in_which_workers_move(team, order, server):
    options = {"tau": 2, "alpha": 0.4, "order": order, "mode": "async", "server": server}
    job = team("easgd", 3, options=options, kind="batch_norm", spread=1.0)
    job.ask("start")
    state = np.concatenate([job.vectors()[:1], job.vectors()])
    assert np.ptp(state, 0).max() == 0
    drift = updates(3, 6, state.shape[1])
    for turn, rank in enumerate([0, 1, 0, 2, 2, 1]):  # two steps each, the second one with a move
        its = drift[turn % 3, 2 * (turn // 3) : 2 * (turn // 3) + 2]
        after = job.workers[rank].ask("drift", its)
        k, m = easgd_async(3, rank + 1, 0.4), rank + 1
        state[m] += its[0]
        np.testing.assert_allclose(after[0], state[m], rtol=1e-5, atol=1e-5)
        if order == "after_step":
            state[m] += its[1]
            state = k @ state
        else:
            state = k @ state
            state[m] += its[1]
        np.testing.assert_allclose(after[1], state[m], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(job.workers[0].ask("central"), state[0], rtol=1e-5, atol=1e-5)
    last = job.last(job.ask("close"))
    np.testing.assert_allclose(last.ask("vector"), state[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("server", SERVERS)
def test_downpour_is_its_matrices_in_the_order_in_which_workers_move(team, server):
    job = team("downpour", 2, options={"n_fetch": 2, "n_push": 3, "server": server}, spread=1.0)
    job.ask("start")
    first = job.vectors()
    state = np.concatenate([first[:1], first, np.zeros_like(first)])  # [w~; w_1; w_2; a_1; a_2]
    fetch = [np.block([[downpour_fetch(2, m), np.zeros((3, 2))], [np.zeros((2, 3)), np.eye(2)]]) for m in (1, 2)]
    drift, steps = updates(2, 9, first.shape[1]), [0, 0]
    for rank in [0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0]:
        update, m = drift[rank, steps[rank]], rank + 1
        steps[rank] += 1
        (after,) = job.workers[rank].ask("drift", update[None])
        state[m] += update
        state[m + 2] += update
        if steps[rank] % 3 == 0:
            state[0] += state[m + 2]
            state[m + 2] = 0
        if steps[rank] % 2 == 0:
            state = fetch[rank] @ state
        np.testing.assert_allclose(after, state[m], rtol=1e-5, atol=1e-5)
    last = job.last(job.ask("close"))
    whole = state[0] + state[3] + state[4]  # what was not pushed yet is pushed by whoever leaves
    np.testing.assert_allclose(last.ask("vector"), whole, rtol=1e-5, atol=1e-5)


def test_a_central_variable_in_parts_is_refused_where_workers_are_on_several_hosts():
    hosts = Hosts(HashStore(), b"of this test", "far", [[0], [1]], [0])
    directory = JobDirectory.create(2, 2)
    job = Job(0, 2, 0, directory, supervised=True, hosts=hosts)
    with pytest.raises(ValueError, match="got server=sharded with workers on several hosts, expected server=process"):
        gossip.build("downpour", nn.Linear(2, 2), job=job, server="sharded")
    directory.remove()


@pytest.mark.parametrize("server", SERVERS)
def test_moves_of_workers_at_the_same_time_lose_nothing(team, server):
    """Elastic moves leave the sum of w~ and all workers as it is; every part of w~ is moved whole."""
    job = team("easgd", 3, options={"tau": 1, "alpha": 0.2, "mode": "async", "server": server})
    job.ask("start")
    dimension = job.vectors().shape[1]
    start = job.vectors().sum(0) + job.workers[0].ask("central")
    drift = updates(3, 300, dimension) * 0.01
    together(job, drift)
    total = job.vectors().sum(0) + job.workers[0].ask("central")
    np.testing.assert_allclose(total, start + drift.astype(np.float64).sum((0, 1)), rtol=1e-4, atol=1e-3)
    assert sum(stats["moves"] for stats in job.ask("stats")) == 900
    job.last(job.ask("close"))


@pytest.mark.parametrize("server", SERVERS)
def test_every_accumulated_update_arrives_once(team, server):
    job = team("downpour", 3, options={"n_fetch": 1, "n_push": 1, "server": server})
    job.ask("start")
    start = job.workers[0].ask("central")
    drift = updates(3, 200, len(start)) * 0.01
    together(job, drift)
    last = job.last(job.ask("close"))
    np.testing.assert_allclose(last.ask("vector"), start + drift.astype(np.float64).sum((0, 1)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "options", "mean", "variance"),
    [
        ("easgd", {"tau": 1, "alpha": 0.25}, 0.25 * (2 + 4), 0.5 * 1 + 0.25 * (2 + 4)),
        ("easgd", {"tau": 1, "alpha": 0.25, "mode": "async"}, 0.75 * 0.5 + 1.0, 0.75 * (0.75 + 0.5) + 1.0),
        ("downpour", {"n_fetch": 1, "n_push": 1}, (1.0 + 4) / 2, ((1 + 2) / 2 + 4) / 2),
    ],
    ids=["easgd", "easgd_async", "downpour"],
)
def test_statistics_are_averaged_and_never_added(team, method, options, mean, variance):
    """Buffers start at mean 0 and variance 1; worker 0 moves first with 2 in both, then worker 1 with 4."""
    job = team(method, 2, options=options, kind="batch_norm")
    job.ask("start")
    still = np.zeros((1, job.vectors().shape[1]), np.float32)
    for rank, worker in enumerate(job.workers):
        worker.ask("fill_buffers", 2.0 + 2 * rank)
        worker.begin("drift", still)
        if "mode" in options or method == "downpour":
            until(worker.answered)
    for worker in job.workers:
        worker.answer()
    found = job.last(job.ask("close")).ask("buffers")
    np.testing.assert_allclose(found["1.running_mean"], [mean] * 8, rtol=1e-6)
    np.testing.assert_allclose(found["1.running_var"], [variance] * 8, rtol=1e-6)


def test_a_killed_worker_comes_back_to_the_central_variable_and_nobody_waits_for_it(team):
    job = team("easgd", 3, options={"tau": 2, "mode": "async"})
    job.ask("start")
    job.ask("steps", 20, 0.1)
    job.workers[1].kill()
    others = [job.workers[0], job.workers[2]]
    for worker in others:
        assert worker.ask("steps", 10, 0.1) == 30
    job.workers[1] = job.run(1)
    job.workers[1].answer()
    assert job.workers[1].ask("start") is True
    np.testing.assert_array_equal(job.workers[1].ask("vector"), job.workers[0].ask("central"))
    assert job.workers[1].ask("steps", 1, 0.1) == 21, "it goes on at the step its predecessor had reached"
    job.ask("steps", 5, 0.1)
    assert [worker.ask("close") for worker in [job.workers[1], *others]] == [False, False, True]
    until(lambda: job.server.ask("ended"))


def test_a_job_waits_at_its_end_for_a_killed_worker_that_is_started_again(team):
    job = team("downpour", 2)
    job.ask("start")
    job.workers[1].kill()
    time.sleep(0.1)
    assert job.workers[0].ask("close") is False
    assert not job.server.ask("ended")
    job.workers[1] = job.run(1)
    job.workers[1].answer()
    job.workers[1].ask("start")
    assert job.workers[1].ask("close") is True
    until(lambda: job.server.ask("ended"))


@pytest.mark.parametrize("method", ["easgd", "downpour"])
def test_workers_say_within_seconds_that_the_server_is_gone(team, method):
    options = {"mode": "async", "tau": 1} if method == "easgd" else {}
    job = team(method, 2, options=options | {"server_loss": "stop"})
    job.ask("start")
    job.server.kill()
    began = time.monotonic()
    for worker in job.workers:
        with pytest.raises(RemoteError, match=r"worker \d waited for .* when its server went away: w~ is lost"):
            worker.ask("still_steps", 30.0)
    assert time.monotonic() - began < 10


def test_a_program_without_a_launcher_starts_its_server_itself():
    with free_port() as port, reaped([]) as workers:
        for rank in (0, 1):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
            make = partial(make_worker, "downpour", {"n_fetch": 1, "n_push": 1}, {"spread": 1.0})
            workers.append(in_process_of_its_own(make, rank, MASTER_PORT=str(port), **place))
        answers(workers)
        ask_all(workers, "start")
        start = workers[0].ask("central")
        ones = np.ones((5, len(start)), np.float32)
        for worker in workers:
            worker.begin("drift", ones)
        answers(workers)
        outcomes = ask_all(workers, "close")
        assert sorted(outcomes) == [False, True]
        vector = workers[outcomes.index(True)].ask("vector")
    np.testing.assert_allclose(vector, start + 10, rtol=1e-5)


def test_the_newest_central_variable_that_a_resumed_worker_brings_is_taken(team):
    job = team("easgd", 2, options={"tau": 1, "mode": "async"})
    for worker, version in zip(job.workers, (3, 7), strict=True):
        worker.ask("resume", float(version), version)
    for worker in job.workers:
        worker.begin("start", 10)
    assert [worker.answer() for worker in job.workers] == [False, False]
    assert set(job.workers[0].ask("central")) == {7.0}
    assert not np.array_equal(job.vectors()[0], job.workers[0].ask("central")), "workers keep their own weights"
    assert job.ask("steps", 1, 0.0) == [11, 11]
    job.last(job.ask("close"))


RECORDED = {
    "easgd_early": ("easgd", {"tau": 2, "order": "before_gradient"}),
    "easgd_async": ("easgd", {"tau": 2, "mode": "async"}),
    "easgd_sharded": ("easgd", {"tau": 1, "mode": "async", "server": "sharded", "order": "before_gradient"}),
    "downpour": ("downpour", {"n_fetch": 2, "n_push": 3}),
    "downpour_sharded": ("downpour", {"n_fetch": 4, "n_push": 1, "server": "sharded"}),
    "easgd_hosts": ("easgd", {"tau": 2, "mode": "async", "order": "before_gradient", "server": "hosts"}),
    "downpour_hosts": ("downpour", {"n_fetch": 2, "n_push": 3, "server": "hosts"}),
}


@pytest.mark.parametrize("row", RECORDED)
def test_three_live_workers_end_where_their_matrices_say(team, tmp_path, row):
    method, options = RECORDED[row]
    job = team(method, 3, options=options, kind="batch_norm", spread=1.0, trace=tmp_path)
    job.ask("start")
    job.ask("steps", 20, 0.1)
    last = job.last(job.ask("close")).ask("vector")
    replay = Replay(read(tmp_path))
    replay.run()
    assert len(replay.deviations) == 3
    assert max(one.relative for one in replay.deviations) <= 1e-5
    np.testing.assert_allclose(replay.state[CENTER], last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options"), [("easgd", {"tau": 2, "mode": "async"}), ("downpour", {"n_fetch": 2, "n_push": 3})]
)
def test_a_resumed_run_replays_from_the_central_variable_it_resumed_with(team, tmp_path, method, options):
    job = team(method, 2, options=options, trace=tmp_path)
    job.ask("resume", 0.5, 3)
    job.ask("perturb")
    job.ask("start", 11)
    job.ask("steps", 10, 0.1)
    job.last(job.ask("close"))
    replay = Replay(read(tmp_path))
    replay.run()
    assert max(one.relative for one in replay.deviations) <= 1e-5


@pytest.mark.parametrize("row", ["easgd_async", "downpour", "easgd_hosts", "downpour_hosts"])
def test_a_run_whose_server_and_workers_are_killed_ends_where_its_matrices_say(team, tmp_path, row):
    """The server is killed twice, the second time with a worker, which comes back while there is no server."""
    method, options = RECORDED[row]
    job = team(method, 3, options=options, trace=tmp_path)
    job.ask("start")
    for worker in job.workers:
        worker.begin("steps", 150, 0.1, 0.005)
    time.sleep(0.2)
    job.server.kill()
    job.serve()
    assert [worker.answer() for worker in job.workers] == [150] * 3
    job.workers[1].kill()
    job.server.kill()
    job.workers[1] = job.run(1)
    job.workers[1].answer()
    job.workers[1].begin("start")
    for worker in (job.workers[0], job.workers[2]):
        worker.begin("steps", 10, 0.1)
    time.sleep(0.2)
    job.serve()
    assert [worker.answer() for worker in job.workers] == [160, True, 160]
    job.ask("steps", 10, 0.1)
    last = job.last(job.ask("close")).ask("vector")
    replay = Replay(read(tmp_path))
    replay.run()
    assert max(one.relative for one in replay.deviations) <= 1e-5
    np.testing.assert_allclose(replay.state[CENTER], last, rtol=1e-5, atol=1e-5)


def test_a_move_that_nobody_wrote_down_is_named(team, tmp_path):
    """A worker that is killed between its move and the record of it leaves a gap in the numbers."""
    job = team("easgd", 2, options={"tau": 1, "mode": "async"}, trace=tmp_path)
    job.ask("start")
    job.workers[1].ask("steps", 3, 0.1)
    job.workers[1].kill()
    trace = tmp_path / "1-0.jsonl"
    *events, last = trace.read_bytes().splitlines(keepends=True)
    assert json.loads(last)["at"] == [3]
    trace.write_bytes(b"".join(events))
    job.workers[0].ask("steps", 3, 0.1)
    with pytest.raises(ValueError, match="got no record of move 3 of the central variable: its worker was killed"):
        Replay(read(tmp_path)).run()
