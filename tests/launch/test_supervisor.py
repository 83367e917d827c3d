"""What becomes of a job when a signal, a failure or a mistake comes: real processes, real signals."""

import os
import re
import signal
import time
from pathlib import Path

from launching import jobs, made, meanwhile, pid_of, processes, started, stick, until
from support.commands import main
from support.reading import lines, summary_of

from gossip.directory import remove_stale

SLOW = ("train.steps=1500", "data.loader_workers=1")


def run_dir(job) -> str:
    return f"run.dir={job}/run"


def test_ctrl_c_ends_all_within_three_seconds_and_the_run_can_be_resumed(job, capsys):
    """The workers have loader processes, which must not be taken from them before they have saved."""
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", *SLOW, run_dir(job)) as process:
        until(lambda: made(0) > 20 and made(1) > 20)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - began < 3
        assert processes(job) == []
    assert jobs() == []
    assert (process.returncode, out) == (130, "")
    step = int(re.fullmatch(r"gosgd: interrupted after step (\d+); go on with --resume auto .*\n", err)[1])
    assert 20 < step < 1500
    assert all(list((job / "run" / "checkpoints" / f"worker-{rank}").glob("step-*.safetensors")) for rank in range(2))
    (job / "slowly").unlink()
    again = time.time()
    assert main(["train", "own.yaml", "train.steps=300", run_dir(job), "--resume", "auto"]) == 0
    assert "steps a worker   300" in capsys.readouterr().out
    assert (summary_of(job)["steps"], summary_of(job)["interrupted"]) == (300, False)
    assert summary_of(job)["steps_total"] == 600
    assert min(line["step"] for line in lines(job / "run/workers/0/metrics.jsonl") if line["time"] > again) > step


def test_a_killed_worker_is_restarted_alone_and_rejoins(job, capsys):
    def kill() -> None:
        until(lambda: made(0) > 20 and made(1) > 20)
        other = pid_of(job, 0)
        os.kill(pid_of(job, 1), signal.SIGKILL)
        until(lambda: made(1, generation=1) > 0)
        assert pid_of(job, 0) == other
        (job / "slowly").unlink()

    (job / "slowly").touch()
    with meanwhile(kill):
        assert main(["train", "own.yaml", *SLOW, run_dir(job)]) == 0
    out, err = capsys.readouterr()
    assert "steps a worker   1,500" in out
    assert "worker 1 was killed by SIGKILL; restart 1 of 3" in err
    assert (summary_of(job)["mass_total"], summary_of(job)["workers"]) == (1.0, 2)
    times = [line["time"] for rank in (0, 1) for line in lines(job / "run" / "workers" / str(rank) / "metrics.jsonl")]
    assert summary_of(job)["seconds"] > max(times) - min(times), "from the first worker's first step"
    events = [{name: event[name] for name in event if name != "time"} for event in lines(job / "run" / "events.jsonl")]
    assert events == [
        {"event": "failure", "worker": 1, "attempt": 0, "signal": 9},
        {"event": "restart", "worker": 1, "attempt": 1},
    ]
    ledgers = [line["ledger"] for line in lines(job / "run" / "metrics.jsonl") if line.get("ledger")]
    assert ledgers
    assert all(ledger["balanced"] for ledger in ledgers)
    assert jobs() == []


def test_no_worker_outlives_a_supervisor_that_is_killed(job):
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", *SLOW, run_dir(job)) as process:
        until(lambda: made(0) > 20 and made(1) > 20)
        process.kill()
        until(lambda: not processes(job), timeout_s=15)
        until(lambda: not jobs(), timeout_s=5)
    assert all(list((job / "run" / "checkpoints" / f"worker-{rank}").glob("step-*.safetensors")) for rank in range(2))


def test_a_stuck_worker_has_as_long_as_any_when_its_supervisor_is_killed(job):
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", "run.grace_s=1", run_dir(job)) as process:
        until(lambda: made(0) > 5 and made(1) > 5)
        stick(job)
        process.kill()
        until(lambda: not processes(job), timeout_s=20)  # of 30 s that are run.grace_s where nobody says otherwise
        # A dying process is not seen any more before it lets go of its locks.
        until(lambda: len(remove_stale()) == 1)  # which the next job would do


def test_a_worker_that_fails_too_often_ends_the_job_with_the_reason(job, capsys):
    failing = "model={name: 'parts:Failing', how: bug, at: 5}"
    assert main(["train", "own.yaml", failing, "run.restarts=1", "--workers", "1", run_dir(job)]) == 1
    *shown, last = capsys.readouterr().err.splitlines()
    assert any(re.fullmatch(r"worker 0 \| RuntimeError: got points,", line) for line in shown)
    reason = r"worker 0 failed with exit code 1; its 1 restarts \(run\.restarts\) are used up"
    log = re.fullmatch(rf"gosgd: {reason}; its log: (.*/attempt-1/stderr\.log)", last)[1]
    assert "Traceback" in Path(log).read_text()
    assert [(event["event"], event["attempt"]) for event in lines(job / "run" / "events.jsonl")] == [
        ("failure", 0),
        ("restart", 1),
        ("failure", 1),
    ]
    assert processes(job) == []
    assert jobs() == []


def test_one_failure_ends_a_collective_job_without_restarts_and_names_the_worker_that_failed_first(job, capsys):
    def kill() -> None:
        until(lambda: made(0) > 20 and made(1) > 20)
        os.kill(pid_of(job, 1), signal.SIGKILL)

    (job / "slowly").touch()
    with meanwhile(kill):
        assert main(["train", "own.yaml", "exchange={method: fully_sync}", "run.restarts=0", *SLOW, run_dir(job)]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    reason = "worker 1 was killed by SIGKILL; a fully_sync job ends with any of its workers"
    used = "and its 0 restarts (run.restarts) are used up"
    assert last == f"gosgd: {reason}, {used}; its log: {job}/run/logs/worker-1/attempt-0/stderr.log"
    until(lambda: not processes(job))  # the killed worker's loader is killed, and dies in its own time
    assert jobs() == []


def test_a_mistake_that_only_a_worker_can_see_is_the_users(job, capsys):
    mistake = "model={name: 'parts:Failing', how: mistake}"
    assert main(["train", "own.yaml", mistake, "--workers", "1", run_dir(job)]) == 2
    assert re.fullmatch(r"gosgd: got points,\nexpected lines \(.*/parts.py, line \d+\)\n", capsys.readouterr().err)
    assert processes(job) == []
    assert jobs() == []


def test_a_failure_of_the_launcher_itself_is_one_line_and_a_log(job, capsys):
    (job / "parts.py").write_text("def points():\n    raise KeyError('mine')\n")
    assert main(["train", "own.yaml", "model={name: mlp}"]) == 1
    err = capsys.readouterr().err
    log = re.fullmatch(r"gosgd: KeyError: 'mine' \(.*/parts.py, line 2\); the traceback is in (\S+)\n", err)[1]
    assert "in points" in Path(log).read_text()
    Path(log).unlink()
