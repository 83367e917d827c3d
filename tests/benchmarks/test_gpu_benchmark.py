"""The GPU benchmark's parts at a tiny size on the CPU: they run, say what they measured and give everything back."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import gpu

pytestmark = pytest.mark.timeout(100)

ROOT = Path(__file__).parent.parent.parent


def test_every_part_measures_what_its_bars_speak_of(tmp_path, capsys):
    given = [
        "--device",
        "cpu",
        "--parts",
        "memory",
        "exchange",
        "trainer",
        "--quick",
        "--json",
        str(tmp_path / "out.json"),
    ]
    gpu.main(given)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["machine"]["device"] == "cpu"
    assert len(found["bars"]) == 2 + 4 + 1
    (exchange,) = found["results"]["exchange"]
    assert list(exchange["variants"]) == ["none", "ddp", "gossip 0.01", "gossip 0.1", "gossip 0.4", "gossip 1"]
    assert sum(value for row in exchange["variants"]["gossip 1"]["merged"] for value in row) > 0
    said = capsys.readouterr().out
    assert "of the large copy" in said and "over none" in said and "samples/s" in said and "airbench94" in said


def test_without_a_gpu_the_script_says_so(monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--parts", "memory"])
    assert ended.value.code == 2 and "without a GPU that torch can use" in capsys.readouterr().err


def test_the_suite_names_its_stages_and_refuses_others():
    suite = ["bash", str(ROOT / "benchmarks" / "gpu_suite.sh")]
    shown = subprocess.run([*suite, "--list"], capture_output=True, text=True, timeout=30, check=True).stdout.split()
    assert shown == ["about", "transport", "hosts", "methods", "memory", "exchange", "steps", "training", "profile"]
    wrong = subprocess.run([*suite, "nonsense"], capture_output=True, text=True, timeout=30, check=False)
    assert wrong.returncode == 2
    assert "got stage nonsense, expected one of: about" in wrong.stderr
