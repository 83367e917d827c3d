"""A worker's checkpoints: which are kept, what cannot be written or read, and which one is gone on from."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from support.checkpointed import ABOUT, path_of, save, state, steps

from trainers.checkpoint_file import write
from trainers.checkpoints import KEPT, Checkpoints, Common, common


def test_what_no_checkpoint_can_hold_is_named_and_costs_that_checkpoint_only(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, 0)
    assert checkpoints.save(replace(ABOUT, step=1), state())
    bad = state() | {"local": {"seen": {1, 2}}}
    assert not checkpoints.save(replace(ABOUT, step=2), bad)
    assert "got builtins.set in local.seen, expected None, bool, int" in caplog.text
    deep: list = []
    for _ in range(200):
        deep = [deep]
    assert not checkpoints.save(replace(ABOUT, step=3), state() | {"deep": deep})
    assert not checkpoints.save(replace(ABOUT, step=4), state() | {"sparse": torch.eye(3).to_sparse()})
    assert (steps(tmp_path, 0), checkpoints.failures, checkpoints.saved) == ([1], 3, 1)


class Bomb:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_neither_pickles_nor_pipes_nor_folders_are_read(tmp_path, caplog):
    folder = tmp_path / "worker-0"
    folder.mkdir()
    torch.save({"vector": Bomb()}, path_of(tmp_path, 0, 1))
    os.mkfifo(path_of(tmp_path, 0, 2))
    path_of(tmp_path, 0, 3).mkdir()
    path_of(tmp_path, 0, 4).symlink_to(tmp_path / "nowhere")
    assert Checkpoints(tmp_path, 0).newest() is None
    assert common(tmp_path, 1) is None
    assert all(str(path_of(tmp_path, 0, step)) in caplog.text for step in (1, 2, 3, 4))


def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, caplog):
    for step in (1, 2):
        save(tmp_path, 0, step, value=step)
    damaged = path_of(tmp_path, 0, 2)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    found = Checkpoints(tmp_path, 0).newest()
    assert found is not None
    assert (found[0].step, float(found[1]["vector"][0])) == (1, 1)
    assert f"{damaged}: its bytes are not those that were written" in caplog.text


def test_the_newest_few_are_kept_and_drafts_of_the_dead_are_removed(tmp_path):
    for step in (10, 20, 100):
        save(tmp_path, 1, step)
    (tmp_path / "worker-1" / ".step-000000110.safetensors.77").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, 1)
    assert steps(tmp_path, 1) == [20, 100]
    assert len(steps(tmp_path, 1)) == KEPT
    found = checkpoints.newest()
    assert found is not None
    assert found[0].step == 100


def test_what_lies_beyond_the_newest_was_given_up_and_is_forgotten(tmp_path):
    for step in (10, 20):
        save(tmp_path, 0, step)
    save(tmp_path, 0, 15, job=1)
    assert steps(tmp_path, 0) == [10, 15]


def test_a_worker_goes_on_from_its_own_and_a_new_one_from_the_newest(tmp_path):
    for worker, step in ((0, 5), (2, 7), (10, 6)):
        save(tmp_path, worker, step)
    taken = {}
    for worker in (0, 2, 10, 11):
        found = Checkpoints(tmp_path, worker).newest()
        assert found is not None
        taken[worker] = (found[0].worker, found[0].step)
    assert taken == {0: (0, 5), 2: (2, 7), 10: (10, 6), 11: (2, 7)}


def test_what_a_worker_has_left_from_an_earlier_job_is_too_old_for_it(tmp_path):
    """Three workers, then two for a while, then three again."""
    for worker in (0, 1, 2):
        save(tmp_path, worker, 10)
    for worker in (0, 1):
        save(tmp_path, worker, 1000 + worker, job=1, workers=2)
    found = Checkpoints(tmp_path, 2).newest()
    assert found is not None
    assert (found[0].worker, found[0].step) == (1, 1001)


def test_workers_that_go_on_together_take_the_newest_complete_step(tmp_path, caplog):
    """The last of them was killed before it had saved what the others have."""
    for worker, last in ((0, 30), (1, 30), (2, 20)):
        for step in range(10, last + 1, 10):
            save(tmp_path, worker, step, together=3)
    assert common(tmp_path, 3) == Common(20, (0, 1, 2))
    damaged = path_of(tmp_path, 1, 20)
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert common(tmp_path, 3) == Common(10, (0, 1, 2))
    assert f"{damaged}: it is cut off" in caplog.text
    assert "no step of which each" not in caplog.text


def test_without_a_complete_step_they_take_the_newest_there_is(tmp_path, caplog):
    assert common(tmp_path, 2) is None
    for worker, step in ((0, 20), (1, 20), (2, 10)):
        save(tmp_path, worker, step)
    assert common(tmp_path, 3) == Common(20, (0, 1, 0))
    assert "from step 20, with the checkpoints of workers 0, 1" in caplog.text


@pytest.mark.parametrize("workers", [2, 5])
def test_another_number_of_workers_takes_the_newest_there_is(tmp_path, caplog, workers):
    for worker in (0, 1, 2):
        save(tmp_path, worker, 20)
    save(tmp_path, 2, 30)
    assert common(tmp_path, workers) == Common(30, (2,) * workers)
    assert "from step 30, with the checkpoints of workers 2" in caplog.text


def test_a_step_is_complete_only_if_one_job_made_it(tmp_path):
    """Worker 0 has something of step 30 from a course of the run that was given up."""
    for worker, step, job in ((0, 30, 0), (0, 20, 1), (1, 20, 1), (1, 30, 1)):
        write(path_of(tmp_path, worker, step), replace(ABOUT, worker=worker, step=step, job=job, workers=2), state())
    assert common(tmp_path, 2) == Common(20, (0, 1))


def test_a_complete_step_is_kept_however_far_a_worker_is_ahead(tmp_path):
    for step in (1, 2):
        for worker in (0, 1):
            save(tmp_path, worker, step, workers=2, together=2)
    for step in range(3, 45):
        save(tmp_path, 0, step, workers=2, together=2)
    assert steps(tmp_path, 0) == [1, 2, *range(13, 45)]
    assert common(tmp_path, 2) == Common(2, (0, 1))
    save(tmp_path, 1, 44, workers=2, together=2)
    assert steps(tmp_path, 1) == [2, 44]


def test_a_full_disk_keeps_the_last_good_checkpoint_and_training_goes_on(tmp_path):
    """The file-size limit of a process stands for a full disk: writes fail with an error in the middle."""
    program = """
import resource, signal, sys, torch
from pathlib import Path
from dataclasses import replace
from support.checkpointed import ABOUT
from trainers.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(Path(sys.argv[1]), 0)
about = replace(ABOUT, dimension=100_000)
assert checkpoints.save(replace(ABOUT, step=1), {"vector": torch.zeros(64)})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for step in (2, 3):
    assert not checkpoints.save(replace(about, step=step), {"vector": torch.zeros(100_000)})
assert checkpoints.newest()[0].step == 1
print([path.name for path in (Path(sys.argv[1]) / "worker-0").iterdir()], checkpoints.failures)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert checkpoints.save(replace(about, step=4), {"vector": torch.zeros(100_000)})
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['step-000000001.safetensors'] 2"
    assert [done.stderr.count(f"checkpoint of step {step} not written, training goes on") for step in (2, 3)] == [1, 1]
    assert steps(tmp_path, 0) == [1, 4]
