"""Jobs from the command to the table at the end: every method, both ways to start it, parts of the user's own."""

import contextlib
import json
import os
import re
import subprocess
import sys

import pytest
from launching import environment, jobs, processes, under_torchrun
from support.commands import main
from support.reading import lines

import configs
from launch.progress import evaluated, table
from launch.report import render
from launch.report_read import read_all
from trainers.schema import Run


def table_of(text: str) -> dict[str, str]:
    """The rows of the table at the end."""
    return dict(re.findall(r"^  (\S.*?)  +(\S.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("method", ["none", "gosgd", "persyn", "fully_sync"])
def test_two_workers_train_on_digits_with_every_method(job, capsys, method):
    tau = ["exchange.tau=5"] if method == "persyn" else []
    assert main(["train", "small.yaml", f"exchange={{method: {method}}}", *tau, f"run.dir={job}/run"]) == 0
    rows = table_of(capsys.readouterr().out)
    summary = json.loads((job / "run" / "final" / "summary.json").read_text())
    assert (rows["method"], rows["workers"], rows["steps a worker"]) == (method, "2", "60")
    assert rows["run directory"] == f"{job}/run"
    assert rows["mass"] == ("1.000000" if method == "gosgd" else "-")
    assert summary["mass_total"] == (1.0 if method == "gosgd" else None)
    assert (summary["steps_total"], summary["interrupted"]) == (120, False)
    assert 0.4 < summary["accuracy"] <= 1
    assert rows["accuracy"] == f"{summary['accuracy']:.2%}"
    assert {line["step"] for line in lines(job / "run" / "metrics.jsonl")} == {20, 40, 60}
    saved = [job / "run" / "checkpoints" / f"worker-{rank}" / "step-000000060.safetensors" for rank in range(2)]
    assert all(path.exists() for path in saved)
    assert json.loads((job / "run" / "env.json").read_text())["workers"] == 2
    assert configs.load(job / "run" / "config.resolved.yaml", [], Run).config.run.workers == 2
    assert not (job / "run" / "events.jsonl").exists()
    assert processes(job) == []
    assert jobs() == []


LEAVES = """
import atexit, sys, threading, time
from launch.process import leave

class Aborts:
    def __del__(self):
        print("taken down", flush=True)

kept = sys.kept = Aborts()
atexit.register(print, "at the end")
threading.Thread(target=lambda: (time.sleep(0.2), print("a thread's work"))).start()
leave(3)
"""


def test_a_worker_leaves_with_everything_done_and_its_interpreter_not_taken_down():
    done = subprocess.run([sys.executable, "-c", LEAVES], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (3, ["a thread's work", "at the end"])


@pytest.mark.parametrize("method", ["gosgd", "fully_sync"])
def test_the_same_job_runs_under_torchrun(job, method):
    out, _ = under_torchrun("small.yaml", f"exchange={{method: {method}}}", f"run.dir={job}/run")
    rows = table_of(out)
    assert (rows["method"], rows["workers"], rows["steps a worker"]) == (method, "2", "60")
    assert json.loads((job / "run" / "final" / "summary.json").read_text())["accuracy"] > 0.4
    assert configs.load(job / "run" / "config.resolved.yaml", [], Run).config.run.workers == 2
    assert jobs() == []


def test_parts_of_the_users_own_are_found_last_so_that_they_hide_nothing(job, capsys):
    """Data and model come from the working directory, in which a folder is called like one of our packages."""
    (job / "trainers").mkdir()
    (job / "trainers" / "__init__.py").write_text("raise RuntimeError('the wrong trainers')\n")
    assert main(["train", "own.yaml", "train.steps=50", "--workers", "1", f"run.dir={job}/run"]) == 0
    assert table_of(capsys.readouterr().out)["steps a worker"] == "50"


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(job, capsys, monkeypatch):
    before = sorted(job.iterdir())
    assert main(["train", "small.yaml", "--workers", "4", "train={epochs: 2}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    # 64·16 + 16 + 16·10 + 10 weights, each tensor padded to 64 bytes; 1,437 samples in batches of 32
    assert said.startswith("small: 4 workers, gosgd, 1,216 parameters, 88 steps each, ")
    assert re.search(r", [\d,]+ bytes of shared memory, into runs/small\n$", said)
    monkeypatch.setenv("HOME", "/home/maria")
    assert main(["train", "small.yaml", "run.dir=~/run", "--dry-run"]) == 0  # no shell puts anything in place of this ~
    assert capsys.readouterr().out.endswith("into /home/maria/run\n")
    assert sorted(job.iterdir()) == before


def test_the_printed_configuration_is_one_that_prints_itself(job, capsys):
    assert main(["train", "small.yaml", "--print-config", "--workers", "3", "optimizer.momentum=0.9"]) == 0
    printed = capsys.readouterr().out
    (job / "again.yaml").write_text(printed)
    assert main(["train", "again.yaml", "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    again = configs.load(job / "again.yaml", [], Run).config
    assert (again.run.workers, again.optimizer.momentum) == (3, 0.9)
    assert again == configs.load(job / "small.yaml", ["run.workers=3", "optimizer.momentum=0.9"], Run).config


@pytest.mark.parametrize("recipe", configs.recipes())
def test_every_recipe_is_valid(job, capsys, recipe):
    assert main(["validate", recipe]) == 0
    assert capsys.readouterr().out.endswith(f"{recipe}.yaml: in order\n")


def test_recipes_are_listed_and_copied_but_never_over_a_file(job, capsys):
    assert main(["recipes", "list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == configs.recipes()
    assert main(["recipes", "copy", "digits"]) == 0
    assert (job / "digits.yaml").read_text() == configs.recipe_path("digits").read_text()
    assert main(["recipes", "copy", "digits"]) == 2
    assert "got digits.yaml, which exists already" in capsys.readouterr().err
    assert main(["recipes", "copy", "digit"]) == 2
    assert "did you mean 'digits'" in capsys.readouterr().err


def test_help_and_the_list_of_recipes_do_not_wait_for_torch(job):
    program = """
import sys
from launch.cli import main
for words in (["--help"], ["train", "--help"], ["recipes", "--help"], ["validate", "--help"], ["--version"]):
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 0
main(["recipes", "list"])
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("example") >= 3


def test_a_run_that_diverged_says_so_in_the_table_on_the_bar_and_on_its_page(job, capsys):
    where = job / "run"
    assert (
        main(["train", "small.yaml", "optimizer.lr=1e30", "train.steps=20", "--workers", "1", f"run.dir={where}"]) == 0
    )
    assert table_of(capsys.readouterr().out)["loss"].startswith("not finite: training has diverged; lower optimizer.lr")
    assert re.fullmatch(r"test accuracy \d+\.\d\d%, loss not finite", evaluated(lines(where / "metrics.jsonl")[-1]))
    assert "run (diverged)" in render(read_all([where]), [])


def test_the_table_is_aligned_and_shows_a_dash_for_what_there_is_not(tmp_path):
    figures = dict.fromkeys(("accuracy", "loss", "mass_total", "consensus_error"))
    known = {"method": "none", "workers": 2, "steps": 1500, "samples_per_second": 12345.6, "seconds": 3.21}
    title, *rows = table(figures | known, tmp_path).splitlines()
    assert title == "consensus model on held-out data"
    assert table_of("\n".join(rows))["steps a worker"] == "1,500"
    assert table_of("\n".join(rows))["accuracy"] == "-"
    assert len({re.match(r"  \S.*?  +(?=\S)", row).end() for row in rows}) == 1


def test_one_worker_needs_no_launcher_and_shows_a_bar_on_a_terminal(job):
    """Even on one that says it has no columns, as those of some build machines do."""
    mine, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "launch.train", "own.yaml", "train.steps=400", f"run.dir={job}/run"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how the end of a terminal is read
            while text := os.read(mine, 4096):
                shown += text
        out, _ = process.communicate(timeout=60)
    os.close(mine)
    assert process.returncode == 0, shown.decode()
    *_, last = [line for line in shown.decode().splitlines() if line.startswith("gosgd x1:")]
    assert "400/400" in last
    assert table_of(out)["workers"] == "1"
    assert jobs() == []
