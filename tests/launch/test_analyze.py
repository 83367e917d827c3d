"""`gosgd analyze`: what it writes and prints, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.commands import main

from configs import dump, load
from gossip.flat import Flat
from trainers import data as datasets
from trainers import regularization
from trainers.checkpoint_file import About, write
from trainers.local import initial_model
from trainers.run_directory import RunDirectory
from trainers.schema import Run

CONFIG = """\
name: small
data: {name: digits, batch_size: 32}
model: {name: mlp, hidden: [16, 8]}
optimizer: {name: sgd, lr: 0.1}
exchange: {method: none}
regularizers: [{name: vcl}]
train: {steps: 60}
"""


@pytest.fixture
def finished(tmp_path):
    """The directory of a run that has ended, with one checkpoint that is whole and one that is not."""
    directory = RunDirectory(tmp_path / "run")
    directory.final.mkdir(parents=True)
    (tmp_path / "job.yaml").write_text(CONFIG)
    run = load(tmp_path / "job.yaml", [], Run).config
    directory.resolved.write_text(dump(run))
    data = datasets.build(run.data)
    model = initial_model(run, data, torch.device("cpu"))
    flat = Flat(regularization.travelling(run, model, regularization.build(run, model, data)))
    folder = directory.checkpoints / "worker-0"
    about = About(30, 0, 1, 0, 0, "none", "sgd", flat.fingerprint, flat.dimension, {})
    write(folder / "step-000000030.safetensors", about, {"vector": flat.vector})
    (folder / "step-000000040.safetensors").write_bytes(b"rubbish")
    with torch.no_grad():
        model.head.hidden1.layer.weight += 0.1
    save_file({name: t.clone() for name, t in model.state_dict().items()}, directory.final / "model.safetensors")
    directory.summary.write_text(json.dumps({"steps": 60}))
    return directory.path


def refused(capsys, *arguments):
    assert main(["analyze", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and 1 <= len(err.splitlines()) <= 2 and "Traceback" not in err
    return err


def test_it_prints_a_table_and_writes_figures_and_pictures(finished, capsys):
    assert main(["analyze", str(finished), "--samples", "100", "--steps", "5"]) == 0
    said = capsys.readouterr().out
    found = json.loads((finished / "analysis" / "analysis.json").read_text())
    assert list(found["layers"]) == ["head.hidden1.layer", "head.hidden2.layer", "Z"]
    assert found["samples"] == 100 and found["steps"] == 60 and 0 <= found["accuracy"] <= 1
    assert [row["layer"] for row in found["binary"]] == ["head.hidden1.activation", "head.hidden2.activation"]
    assert {point["step"] for point in found["information"]} == {0, 30, 60}
    assert all(name in said for name in ("VECA", "head.hidden2.layer", "binary in place of", "I(T;Y)"))
    for name in ("modes.png", "information.png"):
        assert (finished / "analysis" / name).read_bytes().startswith(b"\x89PNG")


def test_parts_and_layers_can_be_chosen_and_it_can_be_repeated(finished, capsys):
    for _ in range(2):
        assert main(["analyze", str(finished), "--only", "scores", "--layers", "*hidden2*", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out[: out.index("\n}\n") + 3])
    assert list(found["layers"]) == ["head.hidden2.layer", "Z"] and "binary" not in found
    assert sorted(path.name for path in (finished / "analysis").iterdir()) == ["analysis.json"]


def test_mistakes_are_told_in_one_or_two_lines(finished, capsys, tmp_path):
    assert "expected a run directory" in refused(capsys, tmp_path / "nowhere")
    assert "--only: got 'vecca', expected some of scores,modes,binary,information" in refused(
        capsys, finished, "--only", "vecca"
    )
    assert "fits no layer; expected one that fits any of: head.hidden1.layer" in refused(
        capsys, finished, "--layers", "features.*"
    )
    assert "--samples: got 1, expected 4 or more" in refused(capsys, finished, "--samples", "1")
    (finished / "final" / "model.safetensors").write_bytes(b"rubbish")
    assert "does not hold the weights" in refused(capsys, finished)
    (finished / "final" / "model.safetensors").unlink()
    assert "expected a run that came to its end" in refused(capsys, finished)
    assert not Path(finished / "analysis").exists()
