"""The local training step and whole runs on a GPU: they agree with the CPU. Skipped where there is none."""

import json

import pytest
import torch
from support.on_devices import gpu
from support.trainees import train
from torch import nn

from configs import load
from regularizers import MeanSquare, Shade, VarianceConstancy
from trainers.data.augment import Augment
from trainers.data.sampled import SampledData
from trainers.data.sources import Sets, TensorSource
from trainers.local import LocalTrainer, in_channels_last
from trainers.schema import Run

pytestmark = [pytest.mark.timeout(110), pytest.mark.skipif(not gpu(), reason="no GPU here")]

RUN = """
name: tiny
data: {name: digits, batch_size: 16}
model: {name: cnn}
optimizer: {name: sgd, lr: 0.05, momentum: 0.9}
exchange: {method: gosgd, rho: 1.0}
train: {steps: 40}
run: {tensorboard: false, workers_per_device: 2, eval_every: 20}
"""


def data(device, augment=None):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (256, 3, 12, 12), dtype=torch.uint8, generator=generator)
    source = TensorSource(x, torch.randint(3, (256,), generator=generator))
    sets = Sets(source, source, 3)
    return SampledData(sets, batch_size=32, eval_batch_size=64, augment=augment, normalize=True, device=device)


def small():
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 3)
    return nn.Sequential(*layers)


def trained(folder, device, *overrides, steps=20):
    source = folder / "run.yaml"
    source.write_text(RUN)
    run = load(source, ["exchange={method: none}", *overrides], Run).config
    model = small().to(device)
    model = in_channels_last(model) if run.train.channels_last else model
    batches = data(device).batches(rank=0, world_size=1, seed=5)
    local = LocalTrainer(run, model, model, batches, torch.device(device))
    for step in range(steps):
        local.step(step)
    assert local.figures()["samples"] == 32 * steps
    return {name: tensor.float().cpu() for name, tensor in model.state_dict().items()}


def test_batches_on_the_gpu_are_those_of_the_cpu():
    augment = Augment(crop=10, flip=True)
    streams = [data(device, augment).batches(rank=0, world_size=1, seed=1) for device in ("cpu", "cuda:0")]
    for _ in range(20):
        (x, y), (gx, gy) = (next(stream) for stream in streams)
        assert gx.device.type == "cuda"
        torch.testing.assert_close(gx.cpu(), x)
        assert torch.equal(gy.cpu(), y)


@pytest.mark.parametrize(
    ("overrides", "near"),
    [
        ((), 2e-3),
        (("train.channels_last=true",), 2e-3),
        (("train.precision=tf32",), 2e-2),
        (("train.precision=bf16", "train.channels_last=true"), 8e-2),
        (("train.precision=fp16", "train.clip=5.0"), 8e-2),
    ],
)
def test_training_on_the_gpu_agrees_with_the_cpu(tmp_path, overrides, near):
    exact = trained(tmp_path, "cpu", *[one for one in overrides if "clip" in one])
    for name, tensor in trained(tmp_path, "cuda:0", *overrides).items():
        torch.testing.assert_close(
            tensor, exact[name], rtol=near, atol=near, msg=lambda said, name=name: f"{name}: {said}"
        )


def test_a_step_with_regularizers_does_not_wait_for_the_gpu(tmp_path):
    source = tmp_path / "run.yaml"
    source.write_text(RUN)
    run = load(source, ["exchange={method: none}"], Run).config
    model, device = small().to("cuda:0"), torch.device("cuda:0")
    batches = data(device).batches(rank=0, world_size=1, seed=5)
    kinds = [Shade(model), MeanSquare(model), VarianceConstancy(model, example_inputs=next(batches)[0])]
    local = LocalTrainer(run, model, model, batches, device, kinds)
    for step in range(2):
        local.step(step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2, 6):  # within the first of the epochs, whose order is copied at its start
            local.step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["true", "reduce-overhead"])
def test_a_compiled_step_agrees_too(tmp_path, how):
    exact = trained(tmp_path, "cpu")
    for name, tensor in trained(tmp_path, "cuda:0", f"train.compile={how}").items():
        torch.testing.assert_close(
            tensor, exact[name], rtol=5e-3, atol=5e-3, msg=lambda said, name=name: f"{name}: {said}"
        )


@pytest.mark.parametrize("method", ["gosgd, rho: 1.0", "persyn, tau: 5", "easgd, tau: 5", "fully_sync"])
def test_workers_of_a_run_share_a_gpu(tmp_path, method):
    source = tmp_path / "run.yaml"
    source.write_text(RUN)
    train(source, tmp_path / "run", 2, f"exchange={{method: {method}}}", "train={steps: 40, precision: bf16}")
    summary = json.loads((tmp_path / "run" / "final" / "summary.json").read_text())
    assert summary["accuracy"] > 0.5
    assert summary["workers"] == 2


def test_more_workers_than_gpus_are_refused_with_the_way_out(tmp_path):
    source = tmp_path / "run.yaml"
    source.write_text(RUN)
    count = torch.cuda.device_count() + 1
    with pytest.raises(Exception, match=r"run\.workers_per_device: "):
        train(source, tmp_path / "run", count, "run.workers_per_device=1")
