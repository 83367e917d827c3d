"""The comparisons of regularizers and activations run at a tiny size, go on where they stopped, and count rightly."""

import json
import math

import numpy as np
import pytest
import torch
from support.idx import idx
from torch import nn

from benchmarks import arms, maxmin, small_sample, tables

pytestmark = pytest.mark.timeout(60)


def test_small_samples_compare_every_regularizer_and_go_on_from_what_is_there(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    for half, count in (("train", 240), ("t10k", 20)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        (tmp_path / f"{half}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{half}-labels-idx1-ubyte").write_bytes(idx(labels))
    np.savez(tmp_path / "crops.npz", images=rng.integers(0, 256, (2, 30, 30, 3)).astype(np.uint8))
    monkeypatch.setattr(small_sample, "WEIGHTS", {name: [w[-1]] for name, w in small_sample.WEIGHTS.items()})
    files = ["--data-root", str(tmp_path), "--backgrounds", str(tmp_path / "crops.npz"), "--quick"]
    kept = ["--results", str(tmp_path / "kept.jsonl"), "--json", str(tmp_path / "out.json")]
    small_sample.main([*files, *kept])
    first = (tmp_path / "kept.jsonl").read_text()
    assert len(first.splitlines()) == len(small_sample.WEIGHTS)
    small_sample.main([*files, *kept])
    assert (tmp_path / "kept.jsonl").read_text() == first
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found["results"]["accuracies"]) == list(small_sample.WEIGHTS)
    assert [bar["sense"] for bar in found["bars"]] == [">="] * 3
    assert "gain over none in points" in capsys.readouterr().out


def test_maxmin_and_relu_have_as_many_parameters(capsys):
    torch.manual_seed(0)
    halves = {
        half: (torch.randn(128, 3, 28, 28), torch.arange(128) % 10) for half in ("training", "validation", "test")
    }
    compared = maxmin.compare(halves, arms.Results(None), [0.1], seeds=1, epochs=1)
    relu, doubled = (compared["parameters"][name] for name in maxmin.ACTIVATIONS)
    assert abs(relu - doubled) < 0.02 * relu
    (bar,) = maxmin.show(compared)
    assert bar.measured == pytest.approx(100 * compared["gain"]["mean"]) and "maxmin" in capsys.readouterr().out


def test_tables_are_standardised_and_every_arm_is_there(capsys):
    x, y, held_x, held_y = tables.split("diabetes", 1)
    assert x.mean(0).abs().max() < 1e-5 and (x.std(0, correction=0) - 1).abs().max() < 1e-5
    assert len(held_x) == 88 and set(y.tolist()) == set(held_y.tolist()) == {0, 1}
    tables.main(["--quick"])
    assert "relu           1" in capsys.readouterr().out


def test_layers_are_clipped_weight_and_bias_together():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) * 10
    model[1].weight.grad.fill_(0.1)
    model[1].bias.grad.fill_(0.1)
    arms.clip_layers(model, 1.0)
    norm = torch.cat([model[0].weight.grad.flatten(), model[0].bias.grad]).norm()
    assert norm.item() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(model[1].weight.grad, torch.tensor(0.1))


def test_paired_differences_have_a_spread():
    assert arms.paired([0.1, 0.3])["stdev"] == pytest.approx(0.1414, abs=1e-4)
    assert arms.points(arms.paired([0.1, 0.3])) == "+20.0 ± 14.1" and arms.points(arms.paired([0.1])) == "+10.0"


@pytest.mark.parametrize(("peak", "tried"), [(1e-2, 3), (1.0, 5), (1e-5, 6)])
def test_the_search_for_a_weight_goes_on_while_the_best_is_at_the_edge(peak, tried):
    def validated(weight):
        return {"weight": weight, "accuracy": -abs(math.log10(weight) - math.log10(peak))}

    weight, rows = small_sample.choose([1e-1, 1e-2, 1e-3], validated)
    assert weight == pytest.approx(peak)
    assert len(rows) == tried


def test_the_search_for_a_weight_ends_where_training_diverges():
    def validated(weight):
        return {"weight": weight, "accuracy": weight, "diverged": True}

    assert small_sample.choose([1e-1, 1e-2], validated)[0] == 1e-1
