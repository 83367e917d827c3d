"""A worker that refuses to start again, because what it was asked for is not what it was."""

import os
import signal

from launching import jobs, made, meanwhile, pid_of, until
from support.commands import main
from support.reading import lines, summary_of


def test_a_worker_that_comes_back_with_another_model_is_given_up_and_the_others_end_well(job, capsys):
    parts, events = job / "parts.py", job / "run" / "events.jsonl"

    def change() -> None:
        until(lambda: made(0) > 5 and made(1) > 5)
        as_before = "return nn.Linear(shape[0], classes)"
        parts.write_text(parts.read_text().replace(as_before, f"{as_before[:-1]}, bias=False)"))
        os.kill(pid_of(job, 1), signal.SIGKILL)
        until(lambda: events.exists() and sum(event["event"] == "failure" for event in lines(events)) == 2)
        (job / "slowly").unlink()

    (job / "slowly").touch()
    with meanwhile(change):
        assert main(["train", "own.yaml", "run.restarts=1", "train.steps=1000", f"run.dir={job}/run"]) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "refused" in line]
    assert said.startswith("worker 1 refused to start, the others go on without it: got another model on worker 0")
    assert (summary_of(job)["steps"], summary_of(job)["interrupted"]) == (1000, False)
    assert jobs() == []
