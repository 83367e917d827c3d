"""Checkpoints, metrics and the run directory: whole or absent, and never over somebody else's."""

import json
import os
import random
import subprocess
import sys

import pytest
import torch

from configs import load
from trainers.checkpoints import KEPT, Checkpoints
from trainers.files import write_atomically
from trainers.metrics import Metrics, flatten
from trainers.run_directory import RunDirectory
from trainers.schema import Run


def state(value: float, step: int = 0) -> dict:
    return {"vector": torch.full((64,), value), "step": step}


def test_the_newest_checkpoint_is_restored_and_old_ones_are_forgotten(tmp_path):
    checkpoints = Checkpoints(tmp_path, rank=1)
    for step in (10, 20, 100):
        assert checkpoints.save(step, state(step, step))
    assert len(list((tmp_path / "worker-1").iterdir())) == KEPT
    newest = checkpoints.newest()
    assert newest is not None
    assert newest["step"] == 100
    assert torch.equal(newest["vector"], torch.full((64,), 100.0))


def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, rank=0)
    checkpoints.save(1, state(1, 1))
    checkpoints.save(2, state(2, 2))
    damaged = tmp_path / "worker-0" / "step-000000002.pt"
    damaged.write_bytes(damaged.read_bytes()[:200])
    newest = checkpoints.newest()
    assert newest is not None
    assert newest["step"] == 1
    assert str(damaged) in caplog.text


def test_random_bytes_are_never_restored_and_never_crash(tmp_path):
    generator = random.Random(0)
    checkpoints = Checkpoints(tmp_path, rank=0)
    checkpoints.save(1, state(1, 1))
    whole = (tmp_path / "worker-0" / "step-000000001.pt").read_bytes()
    for trial in range(60):
        spoiled = bytearray(whole if trial % 2 else generator.randbytes(400))
        for _ in range(8):
            spoiled[generator.randrange(len(spoiled))] = generator.randrange(256)
        (tmp_path / "worker-0" / "step-000000002.pt").write_bytes(spoiled[: generator.randrange(len(spoiled))])
        found = checkpoints.newest()
        assert found is not None
        assert found["step"] == 1


class Bomb:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_checkpoint_that_carries_code_is_not_executed(tmp_path):
    folder = tmp_path / "worker-0"
    folder.mkdir()
    torch.save({"vector": Bomb()}, folder / "step-000000001.pt")
    assert Checkpoints(tmp_path, rank=0).newest() is None


def test_a_worker_without_a_checkpoint_takes_the_lowest_other_one(tmp_path):
    for rank in (2, 10):
        Checkpoints(tmp_path, rank).save(5, state(rank, rank))
    newest = Checkpoints(tmp_path, rank=11).newest()
    assert newest is not None
    assert newest["step"] == 2


def test_workers_that_go_on_together_take_the_latest_step_of_all(tmp_path):
    """One was killed before it had saved what the others have: each takes its own only if it is at their step."""
    for rank, step in ((0, 20), (1, 20), (2, 10)):
        Checkpoints(tmp_path, rank).save(step, state(rank, step))
    together = [Checkpoints(tmp_path, rank).newest(together=True) for rank in range(3)]
    assert [(found["step"], float(found["vector"][0])) for found in together if found] == [(20, 0), (20, 1), (20, 0)]
    alone = Checkpoints(tmp_path, 2).newest()
    assert alone is not None
    assert alone["step"] == 10


def test_a_full_disk_keeps_the_last_good_checkpoint_and_training_goes_on(tmp_path):
    """The file-size limit of a process stands for a full disk: writes fail with an error in the middle."""
    program = """
import resource, signal, sys, torch
from pathlib import Path
from trainers.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(Path(sys.argv[1]), 0)
assert checkpoints.save(1, {"vector": torch.zeros(10), "step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
assert not checkpoints.save(2, {"vector": torch.zeros(100_000), "step": 2})
assert checkpoints.newest()["step"] == 1
print([path.name for path in (Path(sys.argv[1]) / "worker-0").iterdir()])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['step-000000001.pt']"
    assert "not written" in done.stderr


def test_a_failed_write_leaves_the_earlier_file_and_no_draft(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, lambda draft: draft.write_text("one"))

    def fail(draft):
        draft.write_text("tw")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_atomically(path, fail)
    assert path.read_text() == "one"
    assert [one.name for one in tmp_path.iterdir()] == ["summary.json"]


def test_metrics_are_json_lines_and_a_tensorboard_view(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl", tmp_path / "tb")
    metrics.write(3, {"loss": 0.5, "exchange": {"mass": 0.25, "staleness_mean": None}})
    metrics.close()
    (line,) = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (line["step"], line["loss"], line["exchange"]["staleness_mean"]) == (3, 0.5, None)
    assert list((tmp_path / "tb").glob("events*"))
    assert flatten(line["exchange"], "exchange/") == {"exchange/mass": 0.25}


def test_a_directory_with_something_in_it_is_refused_without_resume(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.check(resume=False)
    directory.path.mkdir()
    directory.check(resume=False)
    (directory.path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty; expected a new directory"):
        directory.check(resume=False)
    directory.check(resume=True)
    with pytest.raises(ValueError, match="which is a file"):
        RunDirectory(directory.path / "notes.txt").check(resume=True)


def test_a_run_directory_belongs_to_one_job_at_a_time(tmp_path):
    loaded = load("digits", [], Run)
    directory = RunDirectory(tmp_path / "run")
    directory.prepare(loaded, workers=1)
    again = (
        "import sys; from configs import load; from trainers.run_directory import RunDirectory; "
        "from trainers.schema import Run; RunDirectory(sys.argv[1]).prepare(load('digits', [], Run), workers=1)"
    )
    command = [sys.executable, "-c", again, str(tmp_path / "run")]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "in which another job is running; expected a directory of its own" in refused.stderr
    directory.let_go()
    assert subprocess.run(command, timeout=60).returncode == 0
