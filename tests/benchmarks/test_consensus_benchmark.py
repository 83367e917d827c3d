"""The consensus benchmark runs at a tiny size and says what it measured; no figure is judged here."""

import json

from benchmarks import consensus


def test_levels_costs_and_a_crowd(tmp_path, capsys):
    arguments = ["--quick", "--repeats", "10", "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "f.png")]
    consensus.main(arguments)
    document = json.loads((tmp_path / "out.json").read_text())
    assert [bar["bar"] for bar in document["bars"]] == [28, 36]
    found = document["results"]
    assert {(one["rho"], one["clock"], one["delivery"]) for one in found["levels"]} == {
        (rho, clock, delivery)
        for rho in (0.01, 0.1, 0.4)
        for clock in ("round", "tick")
        for delivery in ("instant", "queued")
    }
    assert all(one["gosgd"][0] > one["persyn_exact"] > 0 < one["gosgd"][1] for one in found["levels"])
    assert {one["method"] for one in found["equal_messages"]} >= {"gosgd", "persyn", "easgd, async", "downpour", "none"}
    assert [one["workers"] for one in found["crowd"]] == [100] * 4 + [10_000] * 4
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "what the thesis says" in said and "us/event" in said
