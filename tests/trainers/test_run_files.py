"""Metrics and the run directory: whole or absent, their user's alone, and never over somebody else's."""

import errno
import json
import subprocess
import sys

import pytest

from configs import load
from configs.files import write_atomically
from trainers.metrics import Metrics, flatten
from trainers.run_directory import RunDirectory
from trainers.schema import Run


def test_a_failed_write_leaves_the_earlier_file_and_no_draft(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, lambda draft: draft.write_text("one"))

    def fail(draft):
        draft.write_text("tw")
        raise OSError(errno.ENOSPC, "disk")

    with pytest.raises(OSError, match=f"disk: '{path}'"):
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


def test_a_full_disk_costs_lines_of_metrics_and_nothing_else(tmp_path):
    """The limit stands for a full disk; the line that is cut off is taken back, and the next one tells of the loss."""
    program = """
import resource, signal, sys
from pathlib import Path
from trainers.metrics import Metrics
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, tb = Path(sys.argv[1]) / "metrics.jsonl", Path(sys.argv[1]) / "tb"
metrics = Metrics(path, tb)
metrics.write(1, {"loss": 1.0})
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, resource.RLIM_INFINITY))
for step in (2, 3):
    metrics.write(step, {f"loss{number}": 1.0 for number in range(3000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
metrics.write(4, {"loss": 1.0})
metrics.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line.get("lines_lost")) for line in lines] == [(1, None), (4, 2)]
    assert done.stderr.count("metrics of step 2 not written, training goes on") == 1
    assert "metrics of step 3" not in done.stderr
    assert "the tensorboard view ends at step" in done.stderr


def test_what_a_run_writes_is_its_users_alone(tmp_path):
    loaded = load("digits", [], Run)
    directory = RunDirectory(tmp_path / "new")
    directory.prepare(loaded, workers=1)
    metrics = Metrics(directory.worker(0) / "metrics.jsonl", directory.tensorboard)
    metrics.write(1, {"loss": 0.5})
    metrics.close()
    directory.let_go()
    own = [path for path in directory.path.rglob("*") if path.parent != directory.tensorboard]
    assert len(own) > 8
    assert {path.stat().st_mode & 0o777 for path in (directory.path, *own) if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in own if path.is_file()} == {0o600}


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_a_directory_that_the_user_made_keeps_its_mode(tmp_path, mode):
    directory = RunDirectory(tmp_path / "mine")
    directory.path.mkdir()
    directory.path.chmod(mode)
    directory.prepare(load("digits", [], Run), workers=1)
    directory.let_go()
    assert directory.path.stat().st_mode & 0o777 == mode
    assert {path.stat().st_mode & 0o077 for path in directory.path.iterdir()} == {0}


def test_the_room_on_a_disk_is_told_while_the_directory_is_there(tmp_path):
    assert RunDirectory(tmp_path).room() > 0
    assert RunDirectory(tmp_path / "removed").room() is None


def test_jobs_in_a_directory_are_counted(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    assert directory.job() == -1
    for number in range(3):
        directory.prepare(load("digits", [], Run), workers=1)
        directory.let_go()
        assert directory.job() == number
    (directory.path / "env.json").write_text("rubbish")
    assert directory.job() == -1


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


def test_a_file_system_without_locks_holds_a_run_all_the_same(tmp_path, monkeypatch):
    def lock(descriptor, how):
        raise OSError(errno.ENOSYS, "Function not implemented")  # Lustre, unless it is mounted with flock

    monkeypatch.setattr("trainers.run_directory.fcntl.lockf", lock)
    RunDirectory(tmp_path / "run").prepare(load("digits", [], Run), workers=1)
