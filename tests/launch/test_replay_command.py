"""`gosgd replay`: a run of the launcher ends where its trace says, or exactly where it ended."""

import json
import math

from support.commands import main


def train(job, trace, *changes):
    changes = ("train.steps=30", "run.eval_every=10", *changes)
    assert main(["train", "small.yaml", f"exchange.trace={trace}", f"run.dir={job}/{trace}", *changes]) == 0
    return f"{job}/{trace}"


SHAKY = """
import random
import numpy
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.3), nn.LazyLinear(classes))

    def forward(self, x):
        return self.layers(x) * (1 + random.random() + numpy.random.random() if self.training else 2)
"""


def test_recorded_events_lead_to_the_final_weights_exactly(job, capsys):
    (job / "shaky.py").write_text(SHAKY)
    where = train(job, "events", "model={name: 'shaky:Net'}")
    capsys.readouterr()
    assert main(["replay", where]) == 0
    assert "largest relative deviation 0.0e+00, tolerance 1e-05" in capsys.readouterr().out


def test_stored_updates_lead_to_the_final_weights_unless_the_trace_was_tampered_with(job, capsys):
    where = train(job, "updates")
    capsys.readouterr()
    assert main(["replay", where, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [one["member"] for one in sorted(figures["workers"], key=lambda one: one["member"])] == ["0.0", "1.0"]
    assert figures["largest_relative"] <= 1e-5
    assert figures["moves"]["update"] == 60
    assert figures["moves"]["push"] == figures["moves"]["merge"] > 5
    for wrong, said in ((0.8, "the run did not do what its trace says"), (math.nan, "got weights that are no numbers")):
        for path in (job / "updates" / "trace").glob("*.jsonl"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for line in lines:
                if line["do"] == "merge":
                    line["weight"] *= wrong
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert main(["replay", where]) == 1
        assert said in capsys.readouterr().err


def test_gradients_that_were_averaged_can_be_trained_again_with_plain_sgd_only(job, capsys):
    where = train(job, "events", "exchange={method: fully_sync, trace: events}")
    assert main(["replay", where, "--json"]) == 0
    capsys.readouterr()
    resolved = job / "events" / "config.resolved.yaml"
    resolved.write_text(resolved.read_text().replace("clip: null", "clip: 1.0"))
    assert main(["replay", where]) == 2
    assert "expected exchange.trace: updates" in capsys.readouterr().err


def test_what_cannot_be_replayed_is_named(job, capsys):
    assert main(["replay", "nowhere"]) == 2
    assert "got nowhere without config.resolved.yaml, expected a run directory" in capsys.readouterr().err
    (job / "plain").mkdir()
    (job / "small.yaml").rename(job / "plain" / "config.resolved.yaml")
    assert main(["replay", "plain"]) == 2
    assert "without traces" in capsys.readouterr().err
