"""Launchers that go to the background, and launchers that die: what becomes of their workers, and what is left."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from launching import environment, jobs, kill_all, made, processes, signal_is, started, until
from support.commands import main
from support.locking import Holder
from support.remote import in_process_of_its_own, reaped

from gossip.directory import JobDirectory, remove_stale

pytestmark = pytest.mark.timeout(150)

TRAIN = ("train", "own.yaml", "train.steps=1500")


def detached(job, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.cli", *TRAIN, f"run.dir={job}/run", "--detach", *arguments],
        cwd=job,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextlib.contextmanager
def nobody_left(job):
    """Ends what a failing test leaves behind."""
    try:
        yield
    finally:
        for pid in processes(job):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def checkpoints(job, workers: int) -> bool:
    return all(list((job / "run" / "checkpoints" / f"worker-{rank}").glob("step-*")) for rank in range(workers))


def test_workers_of_a_detached_job_go_on_to_the_end_when_their_launcher_is_killed(job):
    (job / "slowly").touch()
    with nobody_left(job):
        done = detached(job)
        assert (done.returncode, done.stderr) == (0, "")
        shown = dict(re.findall(r"^(\S.*?)  +(\S.*)$", done.stdout, re.MULTILINE))
        launcher = int(shown["process id"])
        assert shown["run directory"] == f"{job}/run"
        assert shown["follow it"] == f"tail -f {job}/run/logs/launcher.log"
        assert os.getsid(launcher) == launcher, "a session of its own"
        os.kill(launcher, signal.SIGKILL)
        at = made(0)
        until(lambda: made(0) > at + 20)
        (job / "slowly").unlink()
        until(lambda: not processes(job))
    assert (job / "run" / "final" / "summary.json").exists()
    assert not [*(job / "run").glob("job.json"), *(job / "run").glob("workers/*/pid")]
    assert jobs() == []


def test_what_keeps_a_detached_job_from_starting_is_said_where_it_was_asked_for(job, capsys):
    """And is not a file of the user's that is called like a package of ours."""
    if sys.version_info >= (3, 11):  # which has PYTHONSAFEPATH
        (job / "launch.py").write_text("raise RuntimeError('theirs')\n")
    mistake = "model={name: 'parts:Failing', how: mistake}"
    assert main([*TRAIN, f"run.dir={job}/run", "--detach", mistake, "--workers", "1"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.partition(" (")[0]) == ("", "gosgd: got points,\nexpected lines")
    assert processes(job) == []
    assert jobs() == []


def test_a_launcher_that_is_killed_while_the_job_starts_leaves_nothing(job):
    with started(job, *TRAIN, f"run.dir={job}/run") as process:
        until(lambda: list((job / "run").glob("workers/*/pid")))
        process.kill()
        until(lambda: not processes(job), timeout_s=30)
    assert jobs() == []
    assert not (job / "run" / "job.json").exists()


def test_no_job_is_left_behind_by_a_command_that_is_ended_before_it_is_up(job):
    with started(job, *TRAIN, f"run.dir={job}/run", "--detach") as process:
        until(lambda: signal_is(process.pid, "SigCgt", signal.SIGTERM))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err, processes(job)) == (128 + signal.SIGTERM, "", [])


def test_a_job_whose_terminal_is_closed_saves_and_ends(job):
    """Loader processes and all; nothing can be written to the terminal any more."""
    (job / "slowly").touch()
    command = [sys.executable, "-m", "launch.cli", *TRAIN, "data.loader_workers=1", f"run.dir={job}/run"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command, environment())
    with nobody_left(job):
        until(lambda: made(0) > 20 and made(1) > 20, timeout_s=80)
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
        assert processes(job) == []
    assert checkpoints(job, 2)
    assert jobs() == []


def test_what_a_job_left_whose_every_process_was_killed_is_removed_by_the_next(job, monkeypatch):
    """Sockets and desks of a central variable too, and nothing of a job that is alive."""
    (job / "slowly").touch()
    monkeypatch.chdir(job.parent)  # all that works in `job` is killed, and the process of the other job is not to be
    with reaped([in_process_of_its_own(Holder, "")]) as (alive,):
        alive.answer()
        other = alive.ask("make_a_job")
        with started(job, *TRAIN, "exchange={method: downpour}", f"run.dir={job}/run", "--workers", "1") as process:
            until(lambda: [desk for path in jobs() for desk in path.glob("*.desk")] and made(0) > 20, timeout_s=80)
            kill_all({process.pid, *processes(job)})
            assert processes(job) == []
        (left,) = [path for path in jobs() if str(path) != other]
        assert any(left.glob("*.socket"))
        next_one = JobDirectory.create(1, 1)
        try:
            assert {str(path) for path in jobs()} == {other, str(next_one.path)}
        finally:
            next_one.remove()
            alive.kill()
            remove_stale()
