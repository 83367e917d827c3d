"""Jobs with a central variable from the command to the table: where it lives, and what dies with whom."""

import os
import re
import signal
import time

import pytest
from launching import (
    CONFIG,
    jobs,
    made,
    meanwhile,
    pid_of,
    processes,
    started,
    under_torchrun,
    until,
)
from support.commands import main
from support.reading import lines, summary_of

SLOW = ("train.steps=1500", "run.eval_every=0")
ASYNC = "exchange={method: easgd, mode: async, tau: 3}"
DOWNPOUR = "exchange={method: downpour, n_fetch: 3, n_push: 2}"


def server_of(job) -> int:
    """The process that keeps w~."""
    return int((job / "run" / "server" / "pid").read_text())


@pytest.mark.parametrize(
    "exchange",
    ["{method: easgd, tau: 5}", "{method: easgd, mode: async, tau: 5, order: before_gradient, server: sharded}"],
    ids=["easgd", "easgd_sharded"],
)
def test_two_workers_train_on_digits_with_a_central_variable(job, exchange):
    assert main(["train", "small.yaml", f"exchange={exchange}", f"run.dir={job}/run"]) == 0
    summary = summary_of(job)
    assert (summary["workers"], summary["steps"], summary["steps_total"]) == (2, 60, 120)
    assert summary["mass_total"] is None
    assert 0.4 < summary["accuracy"] <= 1
    evaluations = lines(job / "run" / "metrics.jsonl")
    assert {line["step"] for line in evaluations} == {20, 40, 60}
    assert evaluations[-1]["test_accuracy"] > evaluations[0]["test_accuracy"], "it is w~ that is scored"
    assert not (job / "run" / "server").exists()
    assert not (job / "run" / "events.jsonl").exists()
    assert processes(job) == []
    assert jobs() == []


def test_the_server_starts_and_ends_with_a_job_under_torchrun(job):
    under_torchrun("small.yaml", DOWNPOUR, f"run.dir={job}/run")
    assert summary_of(job)["accuracy"] > 0.4
    assert lines(job / "run" / "server" / "metrics.jsonl")[-1]["version"] > 2 * 60 / 3
    until(lambda: not processes(job), timeout_s=5)
    assert jobs() == []


def test_a_killed_worker_is_restarted_alone_and_goes_on_from_the_central_variable(job, capsys):
    def kill() -> None:
        until(lambda: made(0) > 20 and made(1) > 20)
        other, server = pid_of(job, 0), server_of(job)
        os.kill(pid_of(job, 1), signal.SIGKILL)
        until(lambda: made(1, generation=1) > 0)
        assert (pid_of(job, 0), server_of(job)) == (other, server)
        (job / "slowly").unlink()

    (job / "slowly").touch()
    with meanwhile(kill):
        assert main(["train", "own.yaml", ASYNC, *SLOW, f"run.dir={job}/run"]) == 0
    assert "worker 1 was killed by SIGKILL; restart 1 of 3" in capsys.readouterr().err
    assert summary_of(job)["steps"] == 1500
    assert summary_of(job)["steps_total"] == 3000, "it went on where its predecessor had been"
    assert summary_of(job)["accuracy"] > 0.8
    assert "worker 1 is gone without a word" in (job / "run/logs/server/attempt-0/stderr.log").read_text()
    assert {"elastic", "leave"} <= {do for line in lines(job / "run/server/metrics.jsonl") for do in line["per_second"]}
    assert jobs() == []


def test_a_killed_server_is_restarted_and_nothing_is_lost_with_it(job, capsys):
    """It is killed twice, the second time with a worker, which comes back while there is no server."""

    def kill() -> None:
        until(lambda: made(0) > 20 and made(1) > 20)
        worker, server = pid_of(job, 0), server_of(job)
        os.kill(server, signal.SIGKILL)
        before = made(0)
        until(lambda: made(0) > before + 20)
        assert pid_of(job, 0) == worker
        os.kill(server_of(job), signal.SIGKILL)
        os.kill(pid_of(job, 1), signal.SIGKILL)
        until(lambda: made(1, generation=1) > 0)
        (job / "slowly").unlink()

    (job / "slowly").touch()
    with meanwhile(kill):
        assert main(["train", "own.yaml", DOWNPOUR, "train.steps=400", "run.eval_every=0", f"run.dir={job}/run"]) == 0
    err = capsys.readouterr().err
    assert "the server was killed by SIGKILL; restart 1 of 3" in err
    assert "the server was killed by SIGKILL; restart 2 of 3 in 1 s" in err
    assert summary_of(job)["steps_total"] == 800
    assert summary_of(job)["accuracy"] > 0.8
    logs = (job / "run/logs/worker-0/attempt-0/stderr.log").read_text()
    assert re.search(
        r"worker 0: the server of the central variable has gone during a '\w+' request; waits for the", logs
    )
    assert re.search(
        r"worker 0: the server is back after [\d.]+ s; the '\w+' request (is sent again|had been met)", logs
    )
    servers = (job / "run" / "logs" / "server").glob("attempt-*/stderr.log")
    went_on = [re.findall(r"goes on after (\d+) moves, none is lost", log.read_text()) for log in sorted(servers)]
    assert [len(found) for found in went_on] == [0, 1, 1]
    assert 0 < int(went_on[1][0]) < int(went_on[2][0])
    (snapshot, *_) = sorted((job / "run/checkpoints/server/part-0-of-1").iterdir(), reverse=True)
    assert snapshot.name == f"version-{lines(job / 'run/server/metrics.jsonl')[-1]['version']:012d}.safetensors"
    assert processes(job) == []
    assert jobs() == []


def test_a_job_whose_server_is_killed_ends_at_once_with_one_clear_line_if_it_is_to(job, capsys):
    def kill() -> None:
        until(lambda: made(0) > 20 and made(1) > 20)
        os.kill(server_of(job), signal.SIGKILL)
        killed.append(time.monotonic())

    killed: list[float] = []
    (job / "slowly").touch()
    with meanwhile(kill):
        stop = DOWNPOUR.replace("}", ", server_loss: stop}")
        assert main(["train", "own.yaml", stop, *SLOW, f"run.dir={job}/run"]) == 1
    assert time.monotonic() - killed[0] < 10
    *_, last = capsys.readouterr().err.splitlines()
    reason = "the server was killed by SIGKILL; a downpour job ends with its central variable (exchange.server_loss)"
    assert last == f"gosgd: {reason}; go on with --resume auto; its log: {job}/run/logs/server/attempt-0/stderr.log"
    logs = [path.read_text() for path in (job / "run" / "logs").glob("worker-*/attempt-0/stderr.log")]
    assert any("when its server went away: w~ is lost" in text for text in logs)
    assert processes(job) == []
    assert jobs() == []


def test_a_worker_with_a_part_of_the_central_variable_is_restarted_with_it_and_the_others_wait(job, capsys):
    def kill() -> None:
        until(lambda: made(0) > 20 and made(1) > 20)
        os.kill(pid_of(job, 1), signal.SIGKILL)
        until(lambda: made(1, generation=1) > 0)
        (job / "slowly").unlink()

    (job / "slowly").touch()
    with meanwhile(kill):
        sharded = DOWNPOUR.replace("}", ", server: sharded}")
        assert main(["train", "own.yaml", sharded, "train.steps=400", "run.eval_every=0", f"run.dir={job}/run"]) == 0
    assert "worker 1 was killed by SIGKILL; restart 1 of 3" in capsys.readouterr().err
    assert (summary_of(job)["steps_total"], summary_of(job)["accuracy"] > 0.8) == (800, True)
    assert "shard 1 of 2: its server has died" in (job / "run/logs/worker-1/attempt-1/stderr.log").read_text()
    assert "worker 0: the server is back after" in (job / "run/logs/worker-0/attempt-0/stderr.log").read_text()
    assert processes(job) == []
    assert jobs() == []


def test_ctrl_c_ends_all_within_three_seconds_and_the_run_can_be_resumed(job, capsys):
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", DOWNPOUR, *SLOW, f"run.dir={job}/run") as process:
        until(lambda: made(0) > 20 and made(1) > 20)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - began < 3
        assert processes(job) == []
    assert jobs() == []
    assert (process.returncode, out) == (130, ""), err
    step = int(re.fullmatch(r"gosgd: interrupted after step (\d+); go on with --resume auto .*\n", err)[1])
    assert summary_of(job)["interrupted"] is True, "the last one still took w~"
    (job / "slowly").unlink()
    again = time.time()
    assert main(["train", "own.yaml", DOWNPOUR, "train.steps=300", f"run.dir={job}/run", "--resume", "auto"]) == 0
    assert "steps a worker   300" in capsys.readouterr().out
    assert summary_of(job)["steps_total"] == 600
    assert min(line["step"] for line in lines(job / "run/workers/0/metrics.jsonl") if line["time"] > again) > step
    assert summary_of(job)["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("exchange", "expected"),
    [
        ("{method: easgd, alpha: 0.7}", r"exchange: got alpha=0\.7 for 2 workers, expected 0 < alpha < 0\.66.*diverge"),
        ("{method: easgd, mode: async, alpha: 1}", r"exchange: got alpha=1 for 1 workers, .*would diverge"),
        ("{method: easgd, alpha: 0.1, beta: 0.9}", r"exchange: .*got alpha=0\.1 and beta=0\.9, expected one of them"),
        ("{method: easgd, tau: 0}", r"exchange\.tau: got 0, expected"),
        ("{method: easgd, server: sharded}", r"exchange: .*got server=sharded with mode=sync, expected none"),
        ("{method: downpour, n_fetch: 0}", r"exchange\.n_fetch: got 0, expected"),
        ("{method: downpour, serve: sharded}", r"exchange\.serve: got an unknown key.*did you mean 'server'"),
    ],
)
def test_bad_options_are_named_by_file_and_line(job, capsys, exchange, expected):
    (job / "bad.yaml").write_text(CONFIG.replace("{method: gosgd, rho: 0.5}", exchange))
    assert main(["train", "bad.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(rf"bad\.yaml:6: {expected}", err), err
    assert len(err.splitlines()) <= 2
    assert jobs() == []


def test_a_dry_run_counts_the_desks_and_the_memory_of_the_central_variable(job, capsys):
    def said(*words: str) -> int:
        assert main(["train", "small.yaml", "--dry-run", *words]) == 0
        return int(re.search(r"([\d,]+) bytes of shared memory", capsys.readouterr().out)[1].replace(",", ""))

    taken = said(DOWNPOUR) - said("exchange={method: none}")
    assert taken == (2 + 2) * 8192, "one vector of 1,216 floats a worker, and two with their records, in pages"
