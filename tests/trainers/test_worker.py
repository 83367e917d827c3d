"""One worker's loop: what it computes, what it writes, and that a resumed run goes on to the bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.reading import lines
from torch import nn

from configs import load
from gossip.job import Job
from trainers.data.base import Batches
from trainers.local import LocalTrainer, steps_of
from trainers.run_directory import RunDirectory
from trainers.schema import Run
from trainers.worker import train as train_worker

CONFIG = """
name: small
seed: 3
data: {name: digits, batch_size: 32}
model: {name: mlp, hidden: [16], dropout: 0.2}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
exchange: {method: gosgd, rho: 0.5}
train: {steps: 40}
run: {log_every: 10, eval_every: 20, tensorboard: false}
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        monkeypatch.delenv(name, raising=False)


def train(folder: Path, *overrides: str, resume: bool = False) -> RunDirectory:
    source = folder.parent / "small.yaml"
    source.write_text(CONFIG)
    loaded = load(source, list(overrides), Run)
    directory = RunDirectory(folder)
    directory.check(resume)
    directory.prepare(loaded, workers=1)
    train_worker(loaded.config, directory, Job.from_environment(), resume)
    directory.let_go()
    return directory


@pytest.mark.parametrize("method", ["none", "gosgd", "persyn", "fully_sync"])
def test_one_worker_trains_and_leaves_a_whole_run_directory(tmp_path, method):
    tau = ["exchange.tau=5"] if method == "persyn" else []
    directory = train(tmp_path / "run", f"exchange={{method: {method}}}", *tau)
    summary = json.loads(directory.summary.read_text())
    assert summary["method"] == method
    assert (summary["workers"], summary["steps"], summary["interrupted"], summary["diverged"]) == (1, 40, False, False)
    assert summary["mass_total"] == (1.0 if method == "gosgd" else None)
    assert 0.5 < summary["accuracy"] <= 1
    assert summary["consensus_error"] == 0
    first, *_, last = lines(tmp_path / "run" / "workers" / "0" / "metrics.jsonl")
    assert (first["step"], last["step"]) == (10, 40)
    assert last["loss"] < first["loss"]
    assert last["samples_per_second"] > 0
    evaluations = lines(directory.metrics)
    assert [line["step"] for line in evaluations] == [20, 40]
    assert evaluations[-1]["oldest_step"] == 40
    weights = load_file(directory.final / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert (directory.path / "config.yaml").read_text() == CONFIG
    assert json.loads((directory.path / "env.json").read_text())["packages"]["torch"] == torch.__version__


def test_a_run_that_diverges_says_so_once_in_words_that_json_has(tmp_path, caplog):
    directory = train(tmp_path / "run", "optimizer.lr=1e30")
    assert caplog.text.count("training has diverged; lower optimizer.lr or set train.clip") == 1
    files = [directory.metrics, directory.summary, directory.path / "workers" / "0" / "metrics.jsonl"]
    assert not any(word in path.read_text() for word in ("NaN", "Infinity") for path in files)
    summary = json.loads(directory.summary.read_text())
    assert (summary["diverged"], summary["loss"], summary["interrupted"]) == (True, None, False)
    assert [line["test_loss"] for line in lines(directory.metrics)] == [None, None]


@pytest.mark.parametrize("method", ["none", "gosgd"])
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(tmp_path, method):
    exchange = f"exchange={{method: {method}}}"
    whole = train(tmp_path / "whole", exchange)
    train(tmp_path / "parts", exchange, "train.steps=17")
    parts = train(tmp_path / "parts", exchange, resume=True)
    expected, got = (load_file(one.final / "model.safetensors") for one in (whole, parts))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_resumed_job_that_stops_at_a_total_counts_what_was_made_before(tmp_path):
    train(tmp_path / "run", "train.stop=total", "train.steps=25")
    directory = train(tmp_path / "run", "train.stop=total", "train.steps=40", resume=True)
    summary = json.loads(directory.summary.read_text())
    assert (summary["steps"], summary["steps_total"]) == (40, 40)
    assert summary["samples_per_second"] * summary["seconds"] == pytest.approx(15 * 32, rel=1e-3)


def test_another_seed_gives_other_weights(tmp_path):
    runs = [train(tmp_path / str(seed), f"seed={seed}") for seed in (1, 2)]
    first, second = (load_file(run.final / "model.safetensors") for run in runs)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(ValueError, match="checkpoints of another model"):
        train(tmp_path / "run", "model.hidden=[8]", resume=True)


def test_a_regularizer_in_the_configuration_acts_on_the_activations(tmp_path):
    plain, shrunk = (
        train(tmp_path / name, "model.dropout=0", *extra)
        for name, extra in (("plain", []), ("shrunk", ["regularizers=[{name: mean_square, weight: 5.0}]"]))
    )
    norms = [
        sum(float(tensor.square().sum()) for tensor in load_file(run.final / "model.safetensors").values())
        for run in (plain, shrunk)
    ]
    assert norms[1] < norms[0]


class Fixed(Batches):
    """The same samples again and again, in batches of a given size."""

    def __init__(self, inputs, targets, size):
        super().__init__(len(targets) // size, size)
        self.inputs, self.targets = inputs, targets

    def __next__(self):
        start = self._position * self.batch_size % len(self.targets)
        self._position += 1
        return self.inputs[start : start + self.batch_size], self.targets[start : start + self.batch_size]

    def _seek(self, epoch, position):
        self._epoch, self._position = epoch, position


def run_of(tmp_path, *overrides: str) -> Run:
    source = tmp_path / "small.yaml"
    source.write_text(CONFIG)
    return load(source, ["model.dropout=0", *overrides], Run).config


def test_accumulated_gradients_equal_one_large_batch(tmp_path):
    torch.manual_seed(0)
    inputs, targets = torch.randn(32, 6), torch.randint(0, 3, (32,))
    weights = []
    for size, turns in ((32, 1), (8, 4)):
        torch.manual_seed(1)
        model = nn.Linear(6, 3)
        run = run_of(tmp_path, f"train.grad_accum_steps={turns}")
        local = LocalTrainer(run, model, model, Fixed(inputs, targets, size), torch.device("cpu"))
        for step in range(5):
            local.step(step)
        weights.append(model.weight.detach().clone())
        assert local.figures()["samples"] == 160
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_mixed_precision_and_clipping_train_too(tmp_path):
    torch.manual_seed(0)
    inputs, targets = torch.randn(32, 6), torch.randint(0, 3, (32,))
    model = nn.Linear(6, 3)
    run = run_of(tmp_path, "train.precision=bf16", "train.clip=0.5")
    local = LocalTrainer(run, model, model, Fixed(inputs, targets, 32), torch.device("cpu"))
    before = local.step(0) or local.figures()["loss"]
    for step in range(1, 40):
        local.step(step)
    local.figures()
    local.step(40)
    assert local.figures()["loss"] < before
    assert model.weight.dtype == torch.float32


def test_the_gradient_of_each_layer_is_clipped_on_its_own(tmp_path):
    torch.manual_seed(0)
    inputs, targets = torch.randn(32, 6), torch.randint(0, 3, (32,))
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[2].weight.mul_(10)
    run = run_of(tmp_path, "train.clip_layers=0.05", "optimizer={name: sgd, lr: 1.0}")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    LocalTrainer(run, model, model, Fixed(inputs, targets, 32), torch.device("cpu")).step(0)
    moved = [(new.detach() - old).square().sum() for new, old in zip(model.parameters(), before, strict=True)]
    for weight, bias in (moved[:2], moved[2:]):
        assert float((weight + bias).sqrt()) == pytest.approx(0.05, rel=1e-4)


def test_epochs_become_steps(tmp_path):
    batches = Fixed(torch.zeros(32, 6), torch.zeros(32, dtype=torch.long), 8)
    run = run_of(tmp_path, "train={epochs: 2.5}")
    assert steps_of(run, batches) == 10
    assert steps_of(run_of(tmp_path, "train={epochs: 3, grad_accum_steps: 2}"), batches) == 6


def test_a_job_total_needs_workers_that_can_go_on_alone(tmp_path):
    with pytest.raises(ValueError, match=r"train\.stop total with exchange\.method fully_sync"):
        run_of(tmp_path, "train.stop=total", "exchange={method: fully_sync}")
