"""What holds for every command: streams that are closed or lead nowhere, locales, paths that cannot be, Ctrl-C."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import CONFIG, environment
from support.commands import main

GOSGD = [sys.executable, "-m", "launch.cli"]
BUFFERED = {name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*arguments: str, stdout=subprocess.PIPE, **options) -> subprocess.CompletedProcess[str]:
    """`gosgd` in a fresh interpreter, which buffers what it prints."""
    command, given = [*GOSGD, *arguments], {"env": BUFFERED} | options
    return subprocess.run(command, text=True, stdout=stdout, stderr=subprocess.PIPE, timeout=100, check=False, **given)


def test_a_reader_that_has_seen_enough_is_no_failure_but_a_full_disk_is():
    ours, theirs = os.pipe()
    os.close(ours)
    done = run("recipes", "list", stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")
    with Path("/dev/full").open("w") as full:
        done = run("recipes", "list", stdout=full)
    assert (done.returncode, done.stderr) == (1, "gosgd: standard output: No space left on device\n")


def test_a_job_is_trained_where_a_daemon_has_left_little_to_stand_on(job):
    """No standard streams, whose numbers files must not take; few files; children nobody is told of; no umlauts."""

    def bare() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for number in range(3):
            os.close(number)

    (job / "größer").mkdir()
    (job / "größer" / "job.yaml").write_text(f"# größer\n{CONFIG}", encoding="utf-8")
    command = [*GOSGD, "train", "größer/job.yaml", "train.steps=20", "run.dir=größer/run", "--workers", "4"]
    with subprocess.Popen(command, env=BUFFERED | ASCII, preexec_fn=bare) as process:
        try:
            assert process.wait(100) == 0
        finally:
            process.kill()
    assert (job / "größer" / "run" / "final" / "summary.json").exists()
    assert (job / "größer" / "run" / "config.yaml").read_text(encoding="utf-8").startswith("# größer")


def test_a_path_whose_bytes_are_no_text_is_printed(job):
    strict = BUFFERED | {"PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    done = run("recipes", "copy", "digits", os.fsdecode(b"na\xefve.yaml"), env=strict)
    assert (done.returncode, done.stdout, done.stderr) == (0, "na\\udcefve.yaml\n", "")


@pytest.mark.parametrize("arguments", [["recipes", "copy", "digits"], ["replay"], ["train", "small.yaml", "--resume"]])
def test_a_path_that_cannot_be_is_the_users_mistake(job, capsys, arguments):
    assert main([*arguments, "x" * 300]) == 2
    err = capsys.readouterr().err
    assert err.startswith("gosgd: got x")
    assert err.endswith("which cannot be used (File name too long); expected another path\n")


def test_ctrl_c_is_heard_while_modules_are_imported():
    """Nearly all of them are, and whatever takes its time."""
    program = """
import signal, sys
from launch.cli import main

class Struck:
    def find_spec(self, name, *rest):
        if name == "pydantic":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Struck())
sys.exit(main(["recipes", "list"]))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=BUFFERED, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "gosgd: interrupted\n")
