"""Live = matrix: what real processes ended with is the product of the matrices that their methods say they applied."""

from io import FileIO

import numpy as np
import pytest
import torch
from support.remote import until
from support.workers import make_model, replayed

import gossip
from gossip.layout import Member
from gossip.replay import Replay, read
from gossip.trace import Recorder

pytestmark = pytest.mark.timeout(90)

METHODS = {
    "none": ("none", {}),
    "fully_sync": ("fully_sync", {}),
    "persyn": ("persyn", {"tau": 3}),
    "gosgd": ("gosgd", {"rho": 0.5}),
    "gosgd adaptive": ("gosgd", {"rho": 0.5, "peers": "adaptive"}),
    "matrix": ("matrix", {"schedule": "support.schedules:ring_and_center"}),
}


@pytest.mark.parametrize(("name", "kind"), [*((name, "batch_norm") for name in METHODS), ("gosgd", "mlp")])
def test_three_live_workers_end_where_their_matrices_say(team, tmp_path, name, kind):
    method, options = METHODS[name]
    job = team(method, 3, options, kind=kind, spread=1.0, trace=tmp_path)
    job.ask("start")
    job.ask("steps", 20, 0.1)
    last = job.last(job.ask("close"))
    replay = replayed(tmp_path)
    assert len(replay.deviations) == 3
    assert max(one.relative for one in replay.deviations) <= 1e-5
    assert replay.moves["update"] == 60
    row = f"{job.workers.index(last)}.0"
    np.testing.assert_allclose(replay.state[row], last.ask("vector"), rtol=1e-5, atol=1e-6)


def test_a_run_in_which_a_worker_was_killed_and_came_back_replays_as_well(team, tmp_path):
    job = team("gosgd", 3, {"rho": 0.5}, trace=tmp_path)
    job.ask("start")
    job.ask("steps", 20, 0.1)
    job.workers[1].kill()
    job.workers[1] = job.run(1)
    job.workers[1].answer()
    job.workers[1].begin("start")
    until(lambda: job.workers[0].ask("steps", 1, 0.1) and job.workers[1].answered())
    job.workers[1].answer()
    job.ask("steps", 20, 0.1)
    job.last(job.ask("close"))
    replay = replayed(tmp_path)
    assert sorted(one.member for one in replay.deviations) == ["0.0", "1.1", "2.0"]
    assert max(one.relative for one in replay.deviations) <= 1e-5


def test_a_replay_that_leaves_out_one_move_does_not_end_there(team, tmp_path):
    job = team("gosgd", 3, {"rho": 0.5}, trace=tmp_path)
    job.ask("start")
    job.ask("steps", 20, 0.1)
    job.last(job.ask("close"))
    traces = read(tmp_path)
    merges = [event for event in traces[0].events if event["do"] == "merge"]
    merges[len(merges) // 2]["weight"] *= 0.5
    replay = Replay(traces)
    replay.run()
    assert max(one.relative for one in replay.deviations) > 1e-4


def test_a_trace_that_lacks_a_member_is_refused(team, tmp_path):
    job = team("gosgd", 2, {"rho": 1.0}, trace=tmp_path)
    job.ask("start")
    job.ask("steps", 5, 0.1)
    job.ask("close")
    (tmp_path / "0-0.jsonl").unlink()
    with pytest.raises(ValueError, match=r"worker 1\.0 waits to merge 0\.0>1#1; expected those of one whole job"):
        Replay(read(tmp_path)).run()


def test_a_folder_without_traces_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"without traces, expected a run with exchange\.trace"):
        read(tmp_path)


def test_what_could_not_be_replayed_is_not_recorded(monkeypatch, tmp_path):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        monkeypatch.delenv(name, raising=False)
    narrow = gossip.build("none", make_model("mlp").bfloat16())
    with pytest.raises(ValueError, match="got a model of bfloat16 to trace, expected float16, float32 or float64"):
        narrow.record(tmp_path, updates=True)
    narrow.step()
    with pytest.raises(ValueError, match="got a trace to write from step 1 on"):
        narrow.record(tmp_path, updates=True)
    narrow.close()
    assert not list(tmp_path.iterdir())


def test_a_vector_is_stored_whole_though_the_system_takes_a_part_of_it_at_a_time(tmp_path):
    """As it does with more than 2 GiB."""

    class Part(FileIO):
        def write(self, data):
            return super().write(data[:1000])

    recorder = Recorder(tmp_path, Member(0, 0), False, {})
    recorder._vectors.close()
    recorder._vectors = Part(tmp_path / "0-0.vectors", "w")
    recorder.end(torch.arange(1000.0))
    assert np.array_equal(np.fromfile(tmp_path / "0-0.vectors", np.float32), np.arange(1000))
