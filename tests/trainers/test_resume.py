"""A run that is stopped, by a signal or not, and gone on with: to the bit where that can be, or with other numbers."""

import json
import os
import random
import resource
import signal
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.remote import until
from support.trainees import last_steps, train
from torch import nn
from torch.utils.data import Dataset

from configs import load
from gossip.directory import JobDirectory
from gossip.job import Job
from trainers.evaluation import set_counters
from trainers.halt import Halt
from trainers.local import LocalTrainer
from trainers.run_directory import RunDirectory
from trainers.schema import Run
from trainers.worker import Worker

pytestmark = pytest.mark.timeout(60)

CONFIG = """
name: small
seed: 3
data: {name: digits, batch_size: 32}
model: {name: mlp, hidden: [16], dropout: 0.2}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
exchange: {method: gosgd, rho: 0.5}
train: {steps: 40}
run: {log_every: 10, tensorboard: false}
"""

METHODS = {
    "none": "{method: none}",
    "gosgd": "{method: gosgd, rho: 0.5}",
    "persyn": "{method: persyn, tau: 7}",
    "fully_sync": "{method: fully_sync}",
    "easgd": "{method: easgd, beta: 0.5, tau: 7}",
    "easgd before the gradient": "{method: easgd, beta: 0.5, tau: 6, order: before_gradient}",
    "easgd async": "{method: easgd, mode: async, beta: 0.5, tau: 7}",
    "downpour": "{method: downpour, n_push: 1, n_fetch: 2}",
}
REGULARIZERS = (
    "regularizers=[{name: shade, weight: 1e-3}, {name: vcl, weight: 1e-3}, {name: reve, weight: 1e-3, refresh: 5},"
    " {name: mutual_information, weight: 1e-3}]"
)


@pytest.fixture
def source(tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


def alone(source, name: str, *overrides: str, resume: bool = False) -> tuple[torch.Tensor, list]:
    """Train one worker in this process; its weights and regularizers at the end."""
    directory = RunDirectory(source.parent / name)
    directory.check(resume)
    loaded = load(source, list(overrides), Run)
    directory.prepare(loaded, workers=1)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    job = Job.from_environment()
    try:
        worker = Worker(loaded.config, directory, job, resume)
        worker.work()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        job.directory.let_go()
        directory.let_go()
    return worker.exchange.flat.vector, worker.local.regularizers


def signal_at(monkeypatch, at: int, number: int) -> None:
    """Have this process get a signal in the middle of a local step."""
    step = LocalTrainer.step

    def stepping(self, count: int) -> None:
        if count == at:
            os.kill(os.getpid(), number)
        step(self, count)

    monkeypatch.setattr(LocalTrainer, "step", stepping)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_by_a_signal_goes_on_to_the_bit(source, monkeypatch, method):
    exchange = f"exchange={METHODS[method]}"
    whole, _ = alone(source, "whole", exchange)
    with monkeypatch.context() as patch:
        signal_at(patch, 16, signal.SIGTERM)
        alone(source, "parts", exchange)
    assert last_steps(source.parent / "parts", [0]) == [17]
    parts, _ = alone(source, "parts", exchange, resume=True)
    assert torch.equal(whole, parts)


def test_regularizers_go_on_to_the_bit_after_a_signal(source, monkeypatch):
    whole, expected = alone(source, "whole", REGULARIZERS)
    with monkeypatch.context() as patch:
        signal_at(patch, 16, signal.SIGUSR2)
        alone(source, "parts", REGULARIZERS)
    parts, got = alone(source, "parts", REGULARIZERS, resume=True)
    assert torch.equal(whole, parts)
    for one, other in zip(expected, got, strict=True):
        tensors = [[*regularizer.parameters(), *regularizer.buffers()] for regularizer in (one, other)]
        assert all(map(torch.equal, *tensors))


class Counting(nn.Module):
    """Its statistics are means over all batches so far, and it uses them from the fourth on."""

    def __init__(self, classes):
        super().__init__()
        self.layer, self.norm = nn.Linear(64, classes), nn.BatchNorm1d(classes, momentum=None)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        y = self.layer(x.flatten(1))
        self.seen += self.training
        return self.norm(y) if self.seen > 3 else y


def test_what_a_model_counts_goes_on_and_is_in_the_consensus_model(source):
    model = f"model={{name: '{__name__}:Counting'}}"
    alone(source, "whole", model)
    alone(source, "parts", model, "train.steps=17")
    alone(source, "parts", model, resume=True)
    whole, parts = (load_file(source.parent / name / "final" / "model.safetensors") for name in ("whole", "parts"))
    assert (int(whole["seen"]), int(whole["norm.num_batches_tracked"])) == (40, 37)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_counters_of_other_shapes_are_another_models():
    model = Counting(3)
    set_counters(model, {"seen": torch.tensor([1, 2]), "norm.num_batches_tracked": torch.tensor(7)})
    assert (int(model.seen), int(model.norm.num_batches_tracked)) == (0, 7)


class Drawn(Dataset):
    """Samples that Python's and numpy's own generators make."""

    targets = tuple(index % 2 for index in range(64))

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return np.float32([random.random() + self.targets[index], np.random.standard_normal()]), self.targets[index]


def test_samples_that_other_generators_make_are_those_of_the_seed_and_go_on(source):
    given = [f"data={{name: '{__name__}:Drawn', batch_size: 16}}", "run.eval_every=0"]
    whole, _ = alone(source, "whole", *given)
    again, _ = alone(source, "again", *given)
    assert torch.equal(whole, again)
    alone(source, "parts", *given, "train.steps=17")
    parts, _ = alone(source, "parts", *given, resume=True)
    assert torch.equal(whole, parts)


def test_a_disk_that_is_full_for_a_while_changes_nothing_but_what_was_not_written(source, monkeypatch, caplog):
    """A limit on the size of files stands for it: every write fails, of checkpoints, metrics and tensorboard."""
    often = ["run.checkpoint_every=5", "run.log_every=5", "run.eval_every=10", "run.tensorboard=true"]
    whole, _ = alone(source, "whole", *often, "exchange.trace=updates")
    step = LocalTrainer.step
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def stepping(self, count: int) -> None:
        if count in (12, 28):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 if count == 12 else hard, hard))
        step(self, count)

    monkeypatch.setattr(LocalTrainer, "step", stepping)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)  # tensorboard's thread
    try:
        disturbed, _ = alone(source, "disturbed", *often, "exchange.trace=updates")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert torch.equal(whole, disturbed)
    folder = source.parent / "disturbed"
    assert sorted(path.name for path in (folder / "checkpoints" / "worker-0").iterdir()) == [
        "step-000000035.safetensors",
        "step-000000040.safetensors",
    ]
    told = [caplog.text.count(f"checkpoint of step {step} not written") for step in (10, 15, 20, 25, 30)]
    assert told == [0, 1, 1, 1, 0]
    lines = [json.loads(line) for line in (folder / "workers" / "0" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 30, 35, 40]
    assert (lines[2]["lines_lost"], lines[2]["checkpoints_failed"]) == (3, 3)
    assert "the trace ends here and cannot be replayed" in caplog.text
    assert not list(folder.rglob(".*"))


def test_another_optimizer_starts_with_an_empty_state(source, caplog):
    alone(source, "run", "train.steps=20")
    alone(source, "run", "optimizer={name: adam, lr: 0.001}", resume=True)
    assert "the checkpoint is of another optimizer" in caplog.text


def test_regularizers_that_were_not_there_start_anew_and_the_others_go_on(source, caplog):
    _, (shade, _) = alone(source, "run", "regularizers=[{name: shade}, {name: mean_square}]", "train.steps=20")
    given = ["regularizers=[{name: shade}, {name: reve}, {name: mutual_information}]", "train.steps=20"]
    _, (again, *_) = alone(source, "run", *given, resume=True)
    assert all(map(torch.equal, shade.buffers(), again.buffers()))
    assert [f"no state of regularizer {at} that fits" in caplog.text for at in range(3)] == [False, True, True]
    alone(source, "run", "train.steps=30", resume=True)


def test_options_of_the_optimizer_that_are_changed_hold_after_a_resume(source):
    alone(source, "run", "train.steps=20")
    alone(source, "run", "optimizer.lr=0.05", "train.steps=30", resume=True)
    lines = (source.parent / "run" / "workers" / "0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["learning_rate"] for line in lines] == [0.1, 0.1, 0.05]


def test_another_method_goes_on_from_the_weights(source):
    alone(source, "run", "train.steps=20")
    for method in ("persyn", "easgd", "none"):
        alone(source, "run", f"exchange={METHODS[method]}", "train.steps=30", resume=True)


def test_who_is_stopped_before_a_step_leaves_the_checkpoints_alone(source, monkeypatch):
    alone(source, "run", "train.steps=20")
    monkeypatch.setattr(Worker, "_stop", lambda self: True)
    alone(source, "run", resume=True)
    assert last_steps(source.parent / "run", [0]) == [20]


def test_workers_that_diverge_stop_at_one_step_and_each_goes_on_from_its_own(source):
    """Only one of them hears of it; between two meetings their weights differ, and nothing of that is lost."""
    given = [f"exchange={METHODS['easgd before the gradient']}", "train.steps=200"]
    whole = train(source, source.parent / "whole", 2, *given)
    took = []

    def stop(handles, steps) -> None:
        until(lambda: steps(0) > 8)
        handles[1].signal(signal.SIGTERM)
        began = time.monotonic()
        until(lambda: all(handle.answered() for handle in handles))
        took.append(time.monotonic() - began)

    stopped = train(source, source.parent / "parts", 2, *given, pause_s=0.02, meanwhile=stop)
    assert took[0] < 3
    one, other = last_steps(source.parent / "parts", [0, 1])
    assert one == other == stopped[0][0] == stopped[1][0] < 200
    resumed = train(source, source.parent / "parts", 2, *given, resume=True)
    assert resumed == whole


@pytest.mark.parametrize("method", ["gosgd", "easgd"])
def test_a_job_goes_on_with_more_and_with_fewer_workers(source, method):
    folder = source.parent / "run"
    exchange = f"exchange={METHODS[method]}"
    train(source, folder, 2, exchange, "train.steps=10")
    for workers, steps in ((3, 20), (1, 30)):
        ended = train(source, folder, workers, exchange, f"train.steps={steps}", resume=True)
        assert [step for step, _ in ended] == [steps] * workers
        summary = json.loads((folder / "final" / "summary.json").read_text())
        assert (summary["workers"], summary["steps"], summary["interrupted"]) == (workers, steps, False)
        assert summary["mass_total"] == (1.0 if method == "gosgd" else None)
        assert last_steps(folder, range(workers)) == [steps] * workers
    weights = load_file(folder / "final" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.fixture
def halts():
    """Of three workers, in this process."""
    directory = JobDirectory.create(3, 3)
    yield [Halt(Job(rank, 3, rank, directory, supervised=True)) for rank in range(3)]
    directory.remove()


@pytest.mark.parametrize("seed", range(5))
def test_whoever_is_asked_first_all_stop_at_the_same_step(halts, seed):
    """They meet at every fourth step, and nobody can begin what comes after a meeting without the others."""
    generator = torch.Generator().manual_seed(seed)
    pauses = torch.rand(3, 400, generator=generator).mul(0.004).tolist()
    asked = int(torch.randint(3, (1,), generator=generator))
    meeting = threading.Barrier(3)
    ended = [-1] * 3

    def work(rank: int) -> None:
        halt, step = halts[rank], 0
        while True:
            if (halt.asked() or (rank == asked and step >= 11)) and halt.stand(step, 20.0):
                break
            halt.begin(step + 1)
            time.sleep(pauses[rank][step])
            step += 1
            if step % 4 == 0:
                meeting.wait(20)
        ended[rank] = step

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({*ended}) == 1
    assert ended[0] >= 11


def test_who_waits_in_vain_for_the_others_to_stop_says_so(halts):
    halts[1].begin(5)
    assert not halts[0].stand(4, 0.1), "worker 1 is in the middle of step 5"
    with pytest.raises(TimeoutError, match="did not come to step 5 within 0 s"):
        halts[0].stand(5, 0.1)
