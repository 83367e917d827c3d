"""Live = matrix on devices: late events, slots that others map, and on a GPU where there is one."""

import numpy as np
import pytest
from support.device_workers import GpuWorker, LateWorker, OverlappingWorker
from support.on_devices import gpu
from support.remote import until
from support.workers import replayed

from gossip.mass import TOTAL

pytestmark = pytest.mark.timeout(90)

ON_GPU = pytest.param(GpuWorker, marks=pytest.mark.skipif(not gpu(), reason="no GPU here"), id="gpu")
METHODS = {
    "none": {},
    "fully_sync": {},
    "persyn": {"tau": 3},
    "easgd": {"tau": 2},
    "gosgd": {"rho": 0.5},
    "downpour": {"n_fetch": 2, "n_push": 2},
    "matrix": {"schedule": "support.schedules:ring_and_center"},
}


@pytest.mark.parametrize("worker", [LateWorker, OverlappingWorker, ON_GPU])
def test_gossip_ends_where_its_matrices_say_and_keeps_all_mass(team, tmp_path, worker):
    """A snapshot that another step had got into, or a merge that was counted twice, would end somewhere else."""
    job = team("gosgd", 3, {"rho": 0.7}, kind="batch_norm", spread=1.0, trace=tmp_path, worker=worker)
    job.ask("start")
    for _ in range(8):  # nobody is ahead of the others by more than five steps, whoever has a processor
        job.ask("steps", 5, 0.1)
    last = job.last(job.ask("close"))
    replay = replayed(tmp_path)
    assert replay.moves["update"] == 120
    assert replay.moves["merge"] > 10
    assert max(one.relative for one in replay.deviations) <= 1e-5
    np.testing.assert_allclose(replay.state[f"{job.workers.index(last)}.0"], last.ask("vector"), rtol=1e-5, atol=1e-6)
    ledger = job.audit()
    assert (ledger.balanced, ledger.in_flight) == (True, 0)
    assert last.ask("mass") == TOTAL


@pytest.mark.parametrize("worker", [LateWorker, ON_GPU])
def test_a_worker_that_is_killed_comes_back_and_nobody_stumbles_over_its_slots(team, tmp_path, worker):
    job = team("gosgd", 3, {"rho": 0.7}, spread=1.0, trace=tmp_path, worker=worker)
    job.ask("start")
    job.ask("steps", 20, 0.1)
    job.workers[1].begin("steps", 10**6, 0.1)
    job.workers[0].ask("steps", 20, 0.1)
    job.workers[1].kill()
    job.workers[1] = job.run(1)
    job.workers[1].answer()
    job.workers[1].begin("start")
    until(lambda: job.workers[0].ask("steps", 1, 0.1) and job.workers[1].answered())
    assert job.workers[1].answer() is True
    job.ask("steps", 20, 0.1)
    job.last(job.ask("close"))
    assert job.audit().balanced
    assert max(one.relative for one in replayed(tmp_path).deviations) <= 1e-5


def test_rounded_messages_are_understood_in_mapped_slots(team):
    job = team("gosgd", 2, {"rho": 1.0, "wire_dtype": "bfloat16"}, spread=1.0, worker=LateWorker)
    job.ask("start")
    job.ask("steps", 200, 0.0)
    apart = np.subtract(*job.vectors())
    assert np.linalg.norm(apart) < 0.1
    job.ask("close")


@pytest.mark.skipif(not gpu(), reason="no GPU here")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_a_gpu_ends_where_its_matrices_say(team, tmp_path, name):
    """The replay is computed on the CPU, so this is the agreement of both."""
    job = team(name, 3, METHODS[name], kind="batch_norm", spread=1.0, trace=tmp_path, worker=GpuWorker)
    job.ask("start")
    job.ask("steps", 20, 0.1)
    job.ask("close")
    assert max(one.relative for one in replayed(tmp_path).deviations) <= 1e-5


@pytest.mark.skipif(not gpu(), reason="no GPU here")
def test_slots_of_workers_that_share_a_gpu_are_mapped(team):
    job = team("gosgd", 2, {"rho": 1.0}, worker=GpuWorker)
    job.ask("start")
    assert job.ask("in_device_memory") == [True, True]
    job.ask("steps", 5, 0.1)
    job.ask("close")
