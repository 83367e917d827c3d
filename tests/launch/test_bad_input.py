"""Every kind of bad input: exit code 2, one or two lines that help, nothing written, nothing started."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import CONFIG, OWN, environment, jobs, processes
from support.commands import main
from support.disks import disk
from support.ports import free_port

from launch.errors import said, say

FILES = {
    "an unknown key": (CONFIG.replace("seed:", "sead:"), r"bad\.yaml:2: sead: got an unknown key.*did you mean 'seed'"),
    "a wrong type": (CONFIG.replace("seed: 3", "seed: three"), r"bad\.yaml:2: seed: got 'three'.*expected"),
    "out of range": (CONFIG.replace("rho: 0.5", "rho: 1.5"), r"bad\.yaml:6: exchange\.rho: got 1\.5, expected .*1"),
    "a duplicate key": (CONFIG + "seed: 4\n", r"bad\.yaml:9: seed: got a duplicate key, also given on line 2"),
    "an empty file": ("", r"bad\.yaml:1: got an empty file, expected a mapping"),
    "broken YAML": (CONFIG.replace("[16]", "[16"), r"bad\.yaml:4: got broken YAML"),
    "an unknown method": (
        CONFIG.replace("gosgd", "gossgd"),
        r"bad\.yaml:6: exchange\.method: got unknown exchange method 'gossgd'.*did you mean 'gosgd'",
    ),
    "an unknown model": (CONFIG.replace("mlp", "mpl"), r"bad\.yaml:4: model\.name: got unknown model 'mpl'"),
    "missing data": (
        CONFIG.replace("{name: digits", "{name: mnist, root: nowhere"),
        r"bad\.yaml:3: data: .*nowhere",
    ),
    "more samples than there are": (
        CONFIG.replace("batch_size: 32", "train_samples: 100000"),
        r"bad\.yaml:3: data: got data\.train_samples 100000, expected at most",
    ),
    "a model that does not fit the data": (
        OWN.replace("{name: 'parts:linear'}", "{name: vgg16}"),
        r"bad\.yaml:3: model: .*vgg16.* got samples of shape \(4,\), expected images",
    ),
    "a negative weight of a regularizer": (
        CONFIG + "regularizers:\n  - {name: shade, weight: -1}\n",
        r"bad\.yaml:10: regularizers\[?\.?0\]?\.weight: got -1, expected .*0",
    ),
    "a batch too small for the variance constancy loss": (
        CONFIG + "regularizers: [{name: vcl, n: 20}]\n",
        r"bad\.yaml:9: regularizers: got a batch of 32 and n = 20, expected a batch of at least 2n = 40",
    ),
    "a warm-up that never ends": (
        CONFIG.replace("lr: 0.1", "lr: 0.1, schedule: {name: cosine, warmup: 61}"),
        r"bad\.yaml:5: optimizer: schedule\.warmup: got 61 steps in a run of 60 of a worker, .*; expected fewer",
    ),
    "a pattern that fits no layer": (
        CONFIG + "regularizers: [{name: shade, layers: ['features.*']}]\n",
        r"bad\.yaml:9: regularizers: got layer pattern 'features\.\*', which fits no layer; expected one",
    ),
    "a part that cannot be imported": (
        CONFIG.replace("{name: mlp, hidden: [16]}", "{name: 'nowhere:Model'}"),
        r"bad\.yaml:4: model: cannot import 'nowhere'",
    ),
}
ARGUMENTS = {
    "a missing file": (["smal.yaml"], r"no file and no recipe called 'smal\.yaml'"),
    "a bad override": (["small.yaml", "train.stepps=3"], r"override 'train\.stepps=3': train\.stepps: .*'steps'"),
    "more workers than seats": (
        ["small.yaml", "--workers", "65"],
        r"got 65 workers, expected 1 to run\.max_workers = 64",
    ),
    "no workers": (["small.yaml", "--workers", "0"], r"got 0 workers, expected 1 to run\.max_workers = 64"),
    "workers that are no number": (
        ["small.yaml", "--workers", "two"],
        r"gosgd train: --workers: got 'two', expected a whole number",
    ),
    "an unknown option": (
        ["small.yaml", "--worker", "2"],
        r"gosgd train: got --worker 2, which it does not take; did you mean '--workers'\?",
    ),
    "a run directory that is taken": (["small.yaml", "run.dir=taken"], r"run\.dir: got taken, which is not empty"),
    "a run directory below a file": (["small.yaml", "run.dir=small.yaml/run"], r"run\.dir: got .*which is a file"),
    "a run directory where none can be": (["small.yaml", "run.dir=/proc/run"], r"run\.dir: got /proc/run, where"),
    "a home of nobody": (["small.yaml", "run.dir=~nobody-here/run"], r"run\.dir: got ~nobody-here/run.*home"),
    "no run to resume": (["small.yaml", "--resume", "taken"], r"--resume: got taken, expected auto, never, or"),
}


def refuse(folder: Path, capsys, *arguments: str) -> str:
    """What `gosgd train` with these arguments says when it refuses them; checks that it did nothing else."""
    before = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    try:
        code = main(["train", *arguments])
    except SystemExit as stop:  # argparse's way
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    assert 1 <= len(err.splitlines()) <= 2, err
    assert err.startswith("gosgd")
    assert "Traceback" not in err
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before
    assert processes(folder) == []
    assert jobs() == []
    return err


@pytest.mark.parametrize(("text", "expected"), FILES.values(), ids=FILES.keys())
def test_a_mistake_in_the_file_is_named_by_file_line_and_key(job, capsys, text, expected):
    (job / "bad.yaml").write_text(text)
    assert re.search(expected, refuse(job, capsys, "bad.yaml"))


@pytest.mark.parametrize(("arguments", "expected"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_a_mistake_on_the_command_line_is_named(job, capsys, arguments, expected):
    (job / "taken").mkdir()
    (job / "taken" / "notes.txt").write_text("mine")
    assert re.search(expected, refuse(job, capsys, *arguments))


def test_shared_memory_that_is_too_small_is_refused_with_the_bytes_needed(job, capsys, monkeypatch):
    with disk(64) as folder:
        monkeypatch.setenv("GOSGD_SHM_DIR", str(folder))
        err = refuse(job, capsys, "small.yaml")
    assert re.search(rf"shared memory: got 65,536 bytes free in {folder}, expected [\d,]+ bytes; enlarge it", err)


def test_a_disk_that_is_full_is_refused_and_nothing_stays_there(job, capsys):
    with disk(8) as folder:
        err = refuse(job, capsys, "small.yaml", f"run.dir={folder}/run")
        assert list(folder.iterdir()) == []
    assert err.startswith(f"gosgd: run.dir: got {folder}/run, where nothing can be written (No space left on device); ")


def test_shared_memory_that_is_not_there_is_refused(job, capsys, monkeypatch):
    monkeypatch.setenv("GOSGD_SHM_DIR", str(job / "nowhere"))
    assert "which does not exist; set GOSGD_SHM_DIR" in refuse(job, capsys, "small.yaml")


def test_the_command_itself_ends_with_code_2_and_without_a_traceback(job):
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", "train", "small.yaml", "exchange.roh=0.1"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"gosgd: .*exchange\.roh: got an unknown key.*did you mean 'rho'\?\n", done.stderr)


def test_under_torchrun_rank_0_says_it_once_and_every_rank_ends_with_code_2_whatever_the_locale(job):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    name = "ö" * 150  # 300 bytes

    def start(rank: int) -> subprocess.Popen[str]:
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        return subprocess.Popen(
            [sys.executable, "-m", "launch.train", "small.yaml", f"run.dir={name}"],
            env=environment() | ascii_only | place | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)},
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    with free_port() as port, contextlib.ExitStack() as ends:
        ranks = [ends.enter_context(start(rank)) for rank in range(2)]
        for process in ranks:
            ends.callback(process.kill)
        said_by = [process.communicate(timeout=100)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [2, 2], said_by
    assert said_by[0] == f"gosgd: got {name}, which cannot be used (File name too long); expected another path\n"
    assert said_by[1] == ""
    assert jobs() == []


def test_what_is_said_has_two_lines_at_most_and_is_found_again(capsys):
    say("one\n\ntwo\nthree")
    text = capsys.readouterr().err
    assert text == "gosgd: one\ntwo three\n"
    assert said(f"noise\ngosgd: earlier\n{text}") == "one\ntwo three"
    assert said("noise") == ""
