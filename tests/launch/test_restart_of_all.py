"""Workers that can only go on together: one that dies takes all with it, and all come back from their checkpoints."""

import os
import re
import signal

from launching import jobs, made, meanwhile, pid_of, processes, under_torchrun, until
from support.commands import main
from support.reading import lines, summary_of

OPTIONS = ("train.steps=300", "run.checkpoint_every=10", "run.eval_every=0")
FULLY_SYNC, EASGD = "exchange={method: fully_sync}", "exchange={method: easgd, tau: 4}"


def in_order(job) -> None:
    """The run came to its end, it learnt something, and nothing is left of it."""
    summary = summary_of(job)
    assert (summary["workers"], summary["steps"], summary["interrupted"]) == (2, 300, False)
    assert summary["accuracy"] > 0.8
    until(lambda: not processes(job), timeout_s=10)
    assert jobs() == []


def gone_on_from(job, attempt: str) -> list[int]:
    """The steps of the checkpoints that the workers went on from."""
    logs = (job / "run" / "logs").glob(attempt)
    return [int(step) for log in logs for step in re.findall(r"goes on from step (\d+) of worker", log.read_text())]


def test_all_workers_of_a_collective_job_are_restarted_together_from_their_newest_common_checkpoint(job, capsys):
    def kill() -> None:
        until(lambda: made(0) > 25 and made(1) > 25, timeout_s=60)
        os.kill(pid_of(job, 1), signal.SIGKILL)
        until(lambda: len(list((job / "run" / "logs" / "worker-0").iterdir())) == 2)
        (job / "slowly").unlink()

    (job / "slowly").touch()
    with meanwhile(kill):
        assert main(["train", "own.yaml", EASGD, *OPTIONS, f"run.dir={job}/run"]) == 0
    err = capsys.readouterr().err
    said = re.search(r"worker 1 was killed by SIGKILL; all workers go on from step (\d+), restart 1 of 3\n", err)
    assert said, err
    assert int(said[1]) >= 20
    assert gone_on_from(job, "worker-*/attempt-1/stderr.log") == [int(said[1])] * 2
    events = [(event["event"], event["worker"], event["attempt"]) for event in lines(job / "run" / "events.jsonl")]
    if ("failure", 0, 0) in events:  # for want of the other, before the launcher had looked at either
        events.remove(("failure", 0, 0))
    assert events == [("failure", 1, 0), ("restart_all", 1, 0), ("restart", 0, 1), ("restart", 1, 1)]
    in_order(job)


def test_torchrun_restarts_all_and_they_go_on_from_their_newest_common_checkpoint(job):
    """Rank 0 is killed, who made the directory in shared memory and the process group."""

    def kill() -> None:
        until(lambda: made(0) > 25 and made(1) > 25, timeout_s=60)
        os.kill(pid_of(job, 0), signal.SIGKILL)
        (job / "slowly").unlink()

    (job / "slowly").touch()
    with meanwhile(kill):
        _, said = under_torchrun(
            *("own.yaml", FULLY_SYNC, *OPTIONS, f"run.dir={job}/run"),
            options=["--max-restarts=1", "--monitor-interval=0.1"],
            timeout_s=110,
        )
    steps = [int(step) for step in re.findall(r"goes on from step (\d+) of worker", said)]
    assert len(steps) == 2, said
    assert len({*steps}) == 1
    assert steps[0] >= 20
    in_order(job)
