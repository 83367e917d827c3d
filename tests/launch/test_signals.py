"""What a scheduler sends before it takes the machine away: all save, exit 0, and the next job goes on from there."""

import json
import os
import re
import signal
import subprocess
import sys

from launching import (
    FRESHLY,
    environment,
    jobs,
    made,
    pid_of,
    processes,
    signal_is,
    started,
    stick,
    stop_the_nursery,
    until,
)

from launch import nursery

SLOW = ("train.steps=1500", "exchange={method: persyn, tau: 50}")


def saved(job) -> list[int]:
    """The step of each worker's newest checkpoint."""
    folders = [job / "run" / "checkpoints" / f"worker-{rank}" for rank in range(2)]
    return [int(sorted(folder.iterdir())[-1].stem.removeprefix("step-")) for folder in folders]


def test_the_launcher_has_all_save_and_exits_0(job):
    """Under nohup, too, where it ignores that its terminal is closed."""
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", *SLOW, f"run.dir={job}/run", under=["nohup"]) as process:
        until(lambda: made(0) > 20 and made(1) > 20)
        process.send_signal(signal.SIGHUP)
        at = made(0)
        until(lambda: made(0) > at + 5)
        process.send_signal(signal.SIGUSR2)
        out, err = process.communicate(timeout=20)  # how fast it is where nothing else runs, test_supervisor says
        assert processes(job) == []
    assert (process.returncode, out) == (0, "")
    assert re.search(
        r"^gosgd: interrupted after step \d+; go on with --resume auto \(run directory ", err, re.MULTILINE
    )
    assert jobs() == []
    one, other = saved(job)
    assert one == other > 20


def test_ctrl_c_before_anything_is_made_leaves_no_run_directory_behind(job):
    with started(job, "train", "own.yaml", f"run.dir={job}/run", under=FRESHLY) as process:
        stop_the_nursery(job)
        until(lambda: signal_is(process.pid, "SigCgt", signal.SIGUSR2))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "gosgd: interrupted before any worker was started\n")
    assert not (job / "run").exists()


def test_a_signal_to_one_worker_of_a_collective_job_stops_them_all_in_good_order(job):
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", *SLOW, f"run.dir={job}/run") as process:
        until(lambda: made(0) > 20 and made(1) > 20)
        os.kill(pid_of(job, 1), signal.SIGUSR2)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "gosgd: stopped after step " in err
    assert len({*saved(job)}) == 1


def test_nobody_waits_for_a_worker_that_is_taken_out_before_it_began(job, monkeypatch):
    monkeypatch.setenv(nursery.METHOD, "spawn")  # a worker that is forked has begun as soon as it is there
    given = ["exchange={method: easgd, mode: async}", "train.steps=100", f"run.dir={job}/run"]
    with started(job, "train", "own.yaml", *given) as process:
        second = until(lambda: (job / "run" / "workers" / "1" / "pid").exists() and pid_of(job, 1))
        until(lambda: signal_is(second, "SigBlk", signal.SIGTERM))  # as a worker does while it imports
        os.kill(second, signal.SIGTERM)
        _, err = process.communicate(timeout=80)
    assert process.returncode == 0, err
    assert "worker 1 left" in err
    assert json.loads((job / "run" / "final" / "summary.json").read_text())["accuracy"] > 0.8
    assert jobs() == []


def test_a_worker_that_does_not_leave_in_time_is_killed_and_named(job):
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", "run.grace_s=1", f"run.dir={job}/run") as process:
        until(lambda: made(0) > 5 and made(1) > 5)
        stick(job)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "worker 0, worker 1: killed, not gone within run.grace_s = 1 s of the signal" in err
    assert jobs() == []


def test_workers_under_torchrun_save_and_exit_0(job):
    """Each for itself; the first one need not wait for the other. Torchrun knows nothing of SIGUSR2."""
    (job / "slowly").touch()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with subprocess.Popen(
        [*torchrun, "-m", "launch.train", "own.yaml", "train.steps=1500", f"run.dir={job}/run"],
        cwd=job,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until(lambda: made(0) > 20 and made(1) > 20)
            first = pid_of(job, 0)
            os.kill(first, signal.SIGUSR2)
            until(lambda: first not in processes(job), timeout_s=10)
            before = made(1)
            until(lambda: made(1) > before)
            os.kill(pid_of(job, 1), signal.SIGUSR2)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, ""), err
    assert all(step > 20 for step in saved(job))
    assert jobs() == []
