"""Workers that are added to a running job and taken out of it: real processes, real signals."""

import os
import signal

import pytest
from launching import jobs, made, meanwhile, processes, started, until
from support.commands import main
from support.locking import Holder
from support.reading import lines, summary_of
from support.remote import in_process_of_its_own, reaped

from gossip.directory import JobDirectory, remove_stale
from launch.settings import read
from trainers import run_directory
from trainers.run_directory import RunDirectory

pytestmark = pytest.mark.timeout(150)

LONG = "train.steps=1500"


def pid(job, worker: int) -> int:
    return int((job / "run" / "workers" / str(worker) / "pid").read_text())


def test_a_worker_joins_a_running_job_and_another_is_taken_out_of_it(job, capfd):
    def join_and_leave() -> None:
        until(lambda: made(0) > 20 and made(1) > 20, timeout_s=80)
        with started(elsewhere, "train", "--join", str(job / "run")) as joiner:
            until(lambda: made(2) > 20, timeout_s=80)
            os.kill(pid(job, 1), signal.SIGTERM)
            until(lambda: not (job / "run" / "workers" / "1" / "pid").exists())
            (job / "slowly").unlink()
            assert joiner.wait(timeout=60) == 0

    elsewhere = job / "elsewhere"
    elsewhere.mkdir()
    (job / "slowly").touch()
    with meanwhile(join_and_leave):
        assert main(["train", "own.yaml", LONG, "run.dir=run"]) == 0
    out, err = capfd.readouterr()
    assert "steps a worker   1,500" in out
    assert "worker 1 left\n" in err
    assert "restart" not in err
    assert [(event["event"], event["worker"]) for event in lines(job / "run" / "events.jsonl")] == [("leave", 1)]
    summary = summary_of(job)
    left_at = lines(job / "run" / "workers" / "1" / "metrics.jsonl")[-1]["step"]
    assert (summary["steps"], summary["mass_total"], summary["interrupted"]) == (1500, 1.0, False)
    assert left_at < 1500
    assert f"step-{left_at:09d}" in {path.stem for path in (job / "run" / "checkpoints" / "worker-1").iterdir()}
    first, *_, last = lines(job / "run" / "workers" / "2" / "metrics.jsonl")
    assert first["step"] > 20, "it takes its peers' step count"
    assert last["step"] == 1500, "and ends with them"
    assert summary["steps_total"] < 1500 + left_at + 1500
    assert (job / "run" / "logs" / "worker-2" / "attempt-0" / "stderr.log").exists()
    assert not [*(job / "run").glob("job.json"), *(job / "run").glob("workers/*/pid")]
    assert jobs() == []


def test_those_that_joined_go_on_when_the_founders_are_stopped_and_write_the_end(job, capfd, monkeypatch):
    monkeypatch.setattr(run_directory, "_LAST_WORDS_S", 0.2)
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", LONG, f"run.dir={job}/run", "--workers", "1") as founders:

        def stop_the_founders() -> None:
            until(lambda: made(1) > 20, timeout_s=80)
            founders.send_signal(signal.SIGINT)
            _, err = founders.communicate(timeout=60)
            assert founders.returncode == 130
            assert "; the job is left to worker 1 of another launcher (" in err
            with pytest.raises(ValueError, match=r"which an earlier job has not left yet \(workers: 1\); "):
                RunDirectory(job / "run").prepare(read("own.yaml", []), 2)
            (job / "slowly").unlink()

        until(lambda: made(0) > 20)
        with meanwhile(stop_the_founders):
            assert main(["train", "--join", str(job / "run")]) == 0
    assert "steps a worker   1,500" in capfd.readouterr().out
    assert (summary_of(job)["mass_total"], summary_of(job)["interrupted"]) == (1.0, False)
    assert not (job / "run" / "job.json").exists()
    assert processes(job) == []
    assert jobs() == []


@pytest.fixture
def announced(job):
    """Makes a job of two founders and three seats that has a launcher and no workers yet."""
    with reaped([in_process_of_its_own(Holder, "")]) as (launcher,):
        launcher.answer()

        def announce(*overrides: str) -> JobDirectory:
            run, made = RunDirectory(job / "run"), JobDirectory.open(launcher.ask("make_a_job", 3, 2))
            run.prepare(read("own.yaml", [*overrides, "run.dir=run"]), 2)
            run.announce(made)
            return made

        yield announce
        launcher.kill()
    remove_stale()


def refused(capsys, *arguments: str) -> str:
    assert main(["train", *arguments]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_joined_is_refused_in_a_line(job, capsys, announced):
    said = refused(capsys, "--join", "nowhere")
    assert said == "gosgd: --join: got nowhere, expected the run directory of a job that is running\n"
    assert "expected --join RUN_DIR alone" in refused(capsys, "own.yaml", "--join", "run")
    assert "expected --join RUN_DIR alone" in refused(capsys, "--join", "run", "--resume", "auto")
    here = announced()
    assert "got --workers 0, expected 1 or more" in refused(capsys, "--join", "run", "--workers", "0")
    said = refused(capsys, "--join", "run", "--workers", "2")
    assert said.startswith("gosgd: --join: got --workers 2, expected at most 1: of the job's 3 seats")
    assert here.taken() == set(), "seats that were not enough are given back"
    with reaped([in_process_of_its_own(Holder, str(here.path / "2-0.lock"))]) as (other,):
        other.answer()
        assert other.ask("lock")
        assert "expected at most 0" in refused(capsys, "--join", "run")
    here.remove()
    said = refused(capsys, "--join", "run")
    assert said.startswith("gosgd: --join: got run, whose job is not running on this host; ")


@pytest.mark.parametrize("exchange", ["{method: fully_sync}", "{method: none}", "{method: downpour}"])
def test_methods_whose_workers_cannot_be_joined_say_so(capsys, announced, exchange):
    announced(f"exchange={exchange}")
    assert refused(capsys, "--join", "run").startswith("gosgd: --join: got a job with exchange.method ")
