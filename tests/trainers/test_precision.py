"""Precision, compilation, layout and traces of the local training step, on the CPU."""

import json
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from support.trainees import train
from torch import nn

from configs import load
from gossip.flat import Flat
from trainers import generators
from trainers.local import LocalTrainer, in_channels_last
from trainers.profiling import Profile, ProfileOptions
from trainers.schema import Run

pytestmark = pytest.mark.timeout(100)

RUN = """
name: tiny
data: {name: digits, batch_size: 16}
model: {name: mlp, hidden: [8]}
optimizer: {name: sgd, lr: 0.5}
exchange: {method: gosgd, rho: 1.0}
train: {steps: 12}
run: {tensorboard: false}
"""


def run_of(folder, *overrides):
    path = folder / "run.yaml"
    path.write_text(RUN)
    return load(path, overrides, Run).config


@dataclass
class Same:
    """The same batch for ever."""

    inputs: torch.Tensor
    targets: torch.Tensor
    steps_per_epoch: float = 1.0

    @property
    def batch_size(self):
        return len(self.inputs)

    def __next__(self):
        return self.inputs, self.targets

    def state_dict(self):
        return {"steps_per_epoch": 1}

    def load_state_dict(self, state):
        pass


def task():
    torch.manual_seed(0)
    return Same(torch.randn(32, 6), torch.randint(0, 3, (32,)))


def trainer(folder, model, batches, *overrides, **options):
    return LocalTrainer(run_of(folder, *overrides), model, model, batches, torch.device("cpu"), **options)


def trained(folder, *overrides, steps=30):
    torch.manual_seed(1)
    model = nn.Linear(6, 3)
    local = trainer(folder, model, task(), *overrides)
    for step in range(steps):
        local.step(step)
    return model, local


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("clip", ["train.clip=null", "train.clip=0.5", "train.clip_layers=0.5"])
def test_every_precision_comes_near_fp32_and_keeps_float32_weights(tmp_path, precision, clip):
    (exact, _), (model, local) = (trained(tmp_path, clip, f"train.precision={name}") for name in ("fp32", precision))
    assert model.weight.dtype == torch.float32
    torch.testing.assert_close(model.weight, exact.weight, rtol=0.05, atol=0.03)
    assert local.figures()["loss"] > 0


@pytest.mark.parametrize("optimizer", ["{name: sgd}", "{name: sgd, momentum: 0.9}", "{name: adam}"])
def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_lowered(tmp_path, optimizer):
    ends = []
    for overflows in (False, True):
        torch.manual_seed(1)
        model, batches = nn.Linear(6, 3), task()
        local = trainer(tmp_path, model, batches, "train.precision=fp16", f"optimizer={optimizer}")
        before, scale = model.weight.detach().clone(), local.state_dict()["scaler"]["scale"]
        if overflows:
            inputs, batches.inputs = batches.inputs, 1e4 * batches.inputs
            local.step(0)
            assert torch.equal(model.weight, before)
            assert local.state_dict()["scaler"]["scale"] == scale / 2
            batches.inputs = inputs
        for _ in range(3):
            local.step(0)
        assert not torch.equal(model.weight, before)
        ends.append(model.weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)  # what was left out has left nothing behind


def test_the_scale_is_in_the_checkpoint_and_another_precision_begins_anew(tmp_path):
    _, local = trained(tmp_path, "train.precision=fp16", steps=1)
    state = local.state_dict()
    state["scaler"]["scale"] = 8.0
    _, again = trained(tmp_path, "train.precision=fp16", steps=1)
    again.load_state_dict(state)
    assert again.state_dict()["scaler"]["scale"] == 8.0
    _, other = trained(tmp_path, steps=1)
    other.load_state_dict(state)
    assert other.state_dict()["scaler"] == {}
    del state["scaler"], state["device_generator"]  # as an older version wrote it
    again.load_state_dict(state)


def test_generators_are_taken_from_a_worker_s_own_checkpoint_only(tmp_path):
    _, local = trained(tmp_path, steps=1)
    state = local.state_dict()
    torch.manual_seed(5)
    mine = torch.get_rng_state()
    local.load_state_dict(state, own=False)
    assert torch.equal(torch.get_rng_state(), mine)
    local.load_state_dict(state)
    assert torch.equal(torch.get_rng_state(), state["generator"])


def test_the_generator_of_any_accelerator_goes_on(monkeypatch):
    states = {}
    monkeypatch.setattr(
        torch,
        "get_device_module",
        lambda device: SimpleNamespace(
            get_rng_state=lambda place: states[place],
            set_rng_state=lambda state, place: states.__setitem__(place, state),
        ),
    )
    first, second = torch.device("xpu:0"), torch.device("xpu:1")
    states[first] = torch.tensor([1, 2], dtype=torch.uint8)
    saved = generators.state_of_all(first)
    generators.restore_all(saved, second)
    assert torch.equal(states[second], states[first])
    generators.restore_all(saved, torch.device("mps"))  # goes on with its own: another kind's state means nothing to it
    generators.restore_all({**saved, "device_generator": None}, torch.device("cpu"))
    assert set(states) == {first, second}


def test_a_model_that_gives_no_tensor_in_training_is_refused(tmp_path):
    class Auxiliary(nn.Linear):
        def forward(self, x):
            return (super().forward(x), x) if self.training else super().forward(x)

    local = trainer(tmp_path, Auxiliary(6, 3), task())
    with pytest.raises(ValueError, match=r"got a tuple from the model in training, expected logits \[32, classes\]"):
        local.step(0)


def test_a_compiled_model_trains_as_the_plain_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # no C++ compiler's 20 seconds
    (plain, _), (compiled, local) = trained(tmp_path), trained(tmp_path, "train.compile=true")
    torch.testing.assert_close(compiled.weight, plain.weight, rtol=1e-4, atol=1e-5)
    assert type(local.model).__name__ == "OptimizedModule"


def test_cuda_graphs_are_asked_for_by_their_name_in_torch(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, mode: asked.append(mode) or model)
    for how in ("true", "reduce-overhead", "false"):
        trained(tmp_path, f"train.compile={how}", steps=1)
    assert asked == [None, "reduce-overhead"]


def test_graphs_that_are_replayed_take_one_batch_a_step(tmp_path):
    with pytest.raises(ValueError, match="got compile=reduce-overhead and grad_accum_steps=2, expected 1"):
        trained(tmp_path, "train.compile=reduce-overhead", "train.grad_accum_steps=2", steps=1)


def test_channels_last_stays_through_the_flat_vector_and_changes_the_fingerprint(tmp_path):
    def convolutional():
        torch.manual_seed(2)
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 64, 3))

    plain, last = convolutional(), in_channels_last(convolutional())
    flats = Flat(plain), Flat(last)
    assert last[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert flats[0].fingerprint != flats[1].fingerprint
    batches = Same(torch.randn(16, 3, 8, 8), torch.randint(0, 3, (16,)))
    seen = []
    last[0].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    ones = trainer(tmp_path, plain, batches), trainer(tmp_path, last, batches, "train.channels_last=true")
    for step in range(5):
        for one in ones:
            one.step(step)
    assert all(seen)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(last.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_the_trace_names_the_parts_of_the_steps_it_was_asked_for(tmp_path):
    profile = Profile(ProfileOptions(start=3, steps=2), tmp_path / "profile" / "trace.json")
    local = trainer(tmp_path, nn.Linear(6, 3), task(), "train.grad_accum_steps=2", profile=profile)
    for step in range(8):
        local.step(step)
        with profile.range("exchange"):
            pass
    events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    parts = ("data", "forward", "backward", "optimizer", "exchange")
    assert {part: names.count(part) for part in parts} == {
        "data": 4, "forward": 4, "backward": 4, "optimizer": 2, "exchange": 2
    }  # fmt: skip


def test_a_run_that_ends_while_it_is_traced_writes_the_trace(tmp_path):
    profile = Profile(ProfileOptions(start=0, steps=100), tmp_path / "trace.json")
    profile.begin()
    with profile.range("data"):
        torch.ones(3).sum()
    profile.end()
    profile.end()
    assert "data" in (tmp_path / "trace.json").read_text()


def test_no_trace_is_asked_for_by_default():
    profile = Profile()
    profile.begin()
    with profile.range("data") as nothing:
        assert nothing is None
    profile.end()


def test_workers_of_a_job_each_write_a_trace_with_the_exchange_in_it(tmp_path):
    source = tmp_path / "run.yaml"
    source.write_text(RUN)
    overrides = ("train.profile={start: 5, steps: 4}", "train.precision=bf16", "train.channels_last=true")
    train(source, tmp_path / "run", 2, *overrides)
    for worker in (0, 1):
        text = (tmp_path / "run" / "profile" / f"worker-{worker}.pt.trace.json").read_text()
        names = [event["name"] for event in json.loads(text)["traceEvents"]]
        assert names.count("exchange") == 4
        assert "lerp_" in text or "aten::copy_" in text


def test_workers_on_the_cpu_need_no_gpu_and_share_none(tmp_path):
    run = run_of(tmp_path, "run.device=cpu", "run.workers_per_device=3")
    assert (run.run.device, run.run.workers_per_device) == ("cpu", 3)
    with pytest.raises(ValueError, match="workers_per_device"):
        run_of(tmp_path, "run.workers_per_device=0")
