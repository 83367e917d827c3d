"""`gosgd completion`: scripts that shells accept and that complete what is to be completed; the keys they know."""

import shutil
import subprocess

import pytest

from launch import cli, command_line
from launch.completion import script
from launch.inspection import SHELLS
from launch.keys import keys, paths
from regularizers import Shade
from trainers.data.table import TableConfig
from trainers.models.cnn import CnnConfig
from trainers.schema import RunOptions, Train

CASES = [
    ("gosgd tr", "train"),
    ("gosgd train digits_e", "digits_easgd digits_easgd_async"),
    ("gosgd train digits --wor", "--workers"),
    ("gosgd train digits exchange.rh", "exchange.rho="),
    ("gosgd train digits --workers 4 exchange.n_f", "exchange.n_fetch="),
    ("gosgd consensus --clock ro", "round"),
    ("gosgd recipes copy digits_p", "digits_persyn"),
    ("gosgd completion z", "zsh"),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_accept_their_script(shell, tmp_path, capsys):
    assert cli.main(["completion", shell]) == 0
    path = tmp_path / "script"
    path.write_text(capsys.readouterr().out)
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", path], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(tmp_path):
    (tmp_path / "script").write_text(script(command_line.parser(), "bash"))
    tries = "\n".join(f"try {line}" for line, _ in CASES)
    body = 'source ./script\ntry() { COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _gosgd; echo "${COMPREPLY[*]}"; }\n'
    done = subprocess.run(["bash", "-c", body + tries], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [expected for _, expected in CASES], done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes(tmp_path):
    (tmp_path / "script").write_text(script(command_line.parser(), "fish"))
    tries = "\n".join(f"echo (complete -C '{line}' | string replace -r '\\t.*' '' | sort)" for line, _ in CASES)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source ./script\n{tries}"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [expected for _, expected in CASES], done.stderr


def test_every_key_of_the_schema_is_known():
    known = paths()
    assert {"exchange.rho", "exchange.schedule", "train.steps", "optimizer.schedule.warmup", "seed"} <= set(known)
    assert {"model.filters", "data.augment.crop", "run.dir", "train.profile", "train.profile.start"} <= set(known)


def test_a_key_has_a_kind_a_default_and_a_meaning():
    found = {key.name: key for key in keys(RunOptions)}
    assert found["grace_s"].kind == "number, above 0"
    assert found["grace_s"].default == "30"
    assert found["grace_s"].meaning.startswith("how long workers may take to save and leave")
    assert found["dir"].kind == "text or null"
    assert all(key.meaning for key in found.values())


def test_what_a_key_takes_reads_well():
    kinds = {key.name: key.kind for config in (Train, CnnConfig, TableConfig, Shade.Options) for key in keys(config)}
    assert kinds["steps"] == "whole number, at least 1, or null"
    assert kinds["compile"] == "true | false | reduce-overhead"
    assert kinds["filters"] == "list of whole numbers, each at least 1"
    assert kinds["layers"] == "list of text, or null"
    assert kinds["target"] == "text or whole number"


def test_a_section_that_may_be_left_out_is_listed_with_its_keys():
    found = {key.name: key for key in keys(Train)}
    assert (found["profile"].kind, found["profile"].default) == ("section or null", "null")
    assert found["profile.start"].default == "20"
    assert found["profile.steps"].meaning
