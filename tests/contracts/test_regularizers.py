"""What every regularizer must keep: one row a regularizer."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.commands import main
from torch import Tensor, nn
from torch.nn import functional

import regularizers
from configs import load
from gossip.job import Job
from regularizers import REGULARIZERS
from regularizers.analysis.edm import edm_loss, group_means
from regularizers.mean_square import mean_square_loss
from regularizers.mine import donsker_varadhan
from regularizers.reve import reve_loss
from regularizers.shade import shade_loss
from regularizers.vcl import vcl_loss
from trainers.checkpoint_file import read
from trainers.run_directory import RunDirectory
from trainers.schema import Run
from trainers.worker import Worker

pytestmark = pytest.mark.timeout(100)
ROOT = Path(__file__).parent.parent.parent


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))


@dataclass
class Row:
    """A regularizer.

    Attributes:
        options: that suit the models below.
        core: its functional core at a point, as a function of what it is differentiated by.
        zero: the core where the mathematics says 0, if it does anywhere.
    """

    options: dict[str, Any]
    core: Callable[[Tensor], Tensor]
    point: Tensor
    zero: Callable[[], Tensor] | None = None


ONES = torch.ones(3, dtype=torch.double)
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])
ROWS = {
    "mean_square": Row(
        {"weight": 0.1},
        mean_square_loss,
        points(6, 3),
        lambda: mean_square_loss(0 * points(6, 3)),
    ),
    "shade": Row(
        {"weight": 1e-3},
        lambda y: shade_loss(y, -ONES, ONES),
        points(6, 3),
        lambda: shade_loss(-ONES.expand(6, 3), -ONES, ONES),
    ),
    "vcl": Row(
        {"weight": 0.01, "n": 2},
        lambda x: vcl_loss(x, ONES, 2),
        points(6, 3),
        lambda: vcl_loss(torch.tensor([[2.0], [0.0], [1.0], [1.0]]), torch.tensor([2.0]), 2),
    ),
    "reve": Row(
        {"weight": 1e-3},
        lambda h: reve_loss(h, points(2, 5), points(2), LABELS, 0.1 * points(4, 6, 5)),
        points(6, 5) + 0.5,
    ),
    "mutual_information": Row(
        {"weight": 0.01},
        lambda scores: donsker_varadhan(scores[:6], scores[6:].reshape(-1)),
        points(12),
        lambda: donsker_varadhan(torch.zeros(6), torch.zeros(30)),
    ),
    "edm": Row(
        {"weight": 0.01, "groups": 2},
        lambda y: edm_loss(group_means(y, 3)),
        points(6, 6),
        lambda: edm_loss(torch.ones(6, 3)),
    ),
}
EVERY = pytest.mark.parametrize("name", ROWS)


def test_every_regularizer_has_a_row():
    assert sorted(ROWS) == REGULARIZERS.names()
    assert {kind for kind in vars(regularizers).values() if isinstance(kind, type)} >= {
        REGULARIZERS.get(name) for name in ROWS
    }


@EVERY
def test_its_core_has_the_right_gradient(name):
    row = ROWS[name]
    value = row.core(row.point)
    assert value.shape == () and value.isfinite()
    if name == "reve":
        return  # moments of the mixture are detached: its gradient is not that of its value, see test_reve.py
    assert torch.autograd.gradcheck(row.core, row.point.clone().requires_grad_())


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.zero])
def test_its_core_is_0_where_the_mathematics_says_so(name):
    assert float(ROWS[name].zero()) == pytest.approx(0, abs=1e-12)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 6), nn.ReLU(), nn.Linear(6, 3)
    )


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    y = torch.randint(3, (12,), generator=generator)
    return torch.randn(12, 1, 8, 8, generator=generator) + y.reshape(-1, 1, 1, 1), y


def steps(model: nn.Module, regularizer: nn.Module, count: int, first: int = 0, narrow: bool = False) -> list[float]:
    """Losses of steps of SGD."""
    optimizer = torch.optim.SGD([*model.parameters(), *regularizer.parameters()], lr=0.1)
    losses = []
    for step in range(first, first + count):
        torch.manual_seed(step)
        x, y = batch(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = functional.cross_entropy(model(x), y)
        loss = loss + regularizer(y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@EVERY
@pytest.mark.parametrize("narrow", [False, True], ids=["fp32", "bf16"])
def test_training_with_it_lowers_the_loss(name, narrow):
    model = network()
    regularizer = REGULARIZERS.get(name)(model, example_inputs=batch(0)[0], **ROWS[name].options)
    assert regularizer(batch(0)[1]).shape == () if not model(batch(0)[0]).isnan().any() else False
    losses = steps(model, regularizer, 40, narrow=narrow)
    assert all(torch.tensor(losses).isfinite())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@EVERY
def test_it_goes_on_from_its_state_to_the_bit(name):
    made = []
    for _ in range(2):
        model = network()
        made.append((model, REGULARIZERS.get(name)(model, example_inputs=batch(0)[0], **ROWS[name].options)))
    (model, regularizer), (other, again) = made
    steps(model, regularizer, 3)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(regularizer.state_dict()))
    assert steps(model, regularizer, 3, first=3) == steps(other, again, 3, first=3)


@EVERY
def test_evaluation_leaves_it_alone(name):
    model = network()
    regularizer = REGULARIZERS.get(name)(model, example_inputs=batch(0)[0], **ROWS[name].options)
    steps(model, regularizer, 1)
    before = json.dumps(regularizer.state_dict(), default=lambda tensor: tensor.tolist())
    model.eval()
    x, y = batch(1)
    expected = network()
    expected.load_state_dict(model.state_dict())
    assert torch.equal(model(x), expected.eval()(x))
    assert regularizer(y) == 0
    assert json.dumps(regularizer.state_dict(), default=lambda tensor: tensor.tolist()) == before


@EVERY
def test_a_negative_weight_is_refused(name):
    with pytest.raises(ValueError, match="weight: got -1"):
        REGULARIZERS.get(name)(network(), example_inputs=batch(0)[0], weight=-1.0)


JOB = f"""\
name: small
data: {{name: digits, batch_size: 32}}
model: {{name: mlp, hidden: [16]}}
optimizer: {{name: sgd, lr: 0.1, weight_decay: 1e-4}}
exchange: {{method: none}}
regularizers: {json.dumps([{"name": name, **row.options} for name, row in ROWS.items()])}
train: {{steps: 40, clip_layers: 1.0}}
run: {{workers: 2, log_every: 10, tensorboard: false}}
"""
METHODS = {
    "none": "{method: none}",
    "fully_sync": "{method: fully_sync}",
    "persyn": "{method: persyn, tau: 5}",
    "easgd": "{method: easgd, tau: 5}",
    "gosgd": "{method: gosgd, rho: 0.3}",
}


@pytest.fixture
def job(tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def states(folder: Path) -> list[dict[str, Any]]:
    """The last checkpoint of each of the two workers."""
    found = [sorted((folder / "checkpoints" / f"worker-{seat}").iterdir())[-1] for seat in (0, 1)]
    return [read(path)[1] for path in found]


@pytest.mark.parametrize("method", METHODS)
def test_all_of_them_compose_with_every_method_on_two_workers(job, capsys, method):
    assert main(["train", "job.yaml", f"exchange={METHODS[method]}", "run.dir=run"]) == 0, capsys.readouterr().err
    for seat in (0, 1):
        lines = (job / "run" / "workers" / str(seat) / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        assert all(torch.tensor(losses).isfinite())
        added = [json.loads(line)["regularizers"] for line in lines]
        assert added[0].keys() == {config["name"] for config in yaml.safe_load(JOB)["regularizers"]}
        assert all(torch.tensor([*one.values()]).isfinite().all() and any(one.values()) for one in added)
        assert losses[-1] < losses[0]
    summary = json.loads((job / "run" / "final" / "summary.json").read_text())
    assert summary["accuracy"] > 0.3
    one, other = states(job / "run")
    learned = [state["local"]["regularizers"][2] for state in (one, other)]
    averages = [state["local"]["regularizers"][1] for state in (one, other)]
    assert all((beta != 1).any() for state in learned for beta in state.values()), "beta learns"
    assert all(not torch.equal(averages[0][name], averages[1][name]) for name in averages[0]), "each has its own"
    if method in ("fully_sync", "persyn"):
        assert torch.equal(one["vector"], other["vector"])
        assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])


def test_moving_averages_are_exchanged_where_asked_for(job, capsys):
    wanted = ["exchange={method: persyn, tau: 1}", "train.exchange_regularizer_state=true", "run.dir=run"]
    assert main(["train", "job.yaml", *wanted]) == 0, capsys.readouterr().err
    one, other = (state["local"]["regularizers"][1] for state in states(job / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all((tensor[0] != -1).any() for tensor in one.values())


def test_a_resumed_run_equals_the_uninterrupted_one(job, monkeypatch):
    """Moving averages, beta and critics are in the checkpoint."""
    ends = []
    for parts in ([40], [17, 40]):
        for steps_, resume in zip(parts, (False, True), strict=False):
            loaded = load(job / "job.yaml", [f"train.steps={steps_}", "run.workers=1"], Run)
            directory = RunDirectory(job / str(parts))
            directory.check(resume)
            directory.prepare(loaded, workers=1)
            worker = Worker(loaded.config, directory, Job.from_environment(), resume)
            worker.work()
            directory.let_go()
        ends.append((worker.exchange.flat.vector, worker.local.regularizers))
    assert torch.equal(ends[0][0], ends[1][0])
    for whole, resumed in zip(ends[0][1], ends[1][1], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), resumed.buffers(), strict=True))
