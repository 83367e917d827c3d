"""`gosgd consensus`: its table, JSON and picture, live processes, and everything it refuses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import environment, jobs, processes, until

from gossip.world import World
from launch.cli import main
from launch.consensus_live import Crew
from launch.errors import RunFailedError

SMALL = ["consensus", "--workers", "4", "--dim", "5", "--steps", "40", "--repeats", "3"]
KEYS = {"method", "rho", "workers", "dim", "clock", "variance", "repeats", "steps", "mean", "sem", "theory"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(capsys, *arguments):
    """The only thing on stdout."""
    assert main([*SMALL, *arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_table_says_level_theory_and_messages(here, capsys):
    assert main(["consensus", "--dim", "20", "--steps", "200", "--repeats", "10", "--rhos", "0.4"]) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.split()[1:2] == ["0.4"]}
    assert float(rows["gosgd"][3]) == pytest.approx(28, abs=4) and rows["gosgd"][2] == "0.4"
    assert rows["gosgd"][5:] == ["-"]
    assert float(rows["persyn"][3]) == pytest.approx(5.6, rel=0.05)
    assert rows["persyn"][2] == "0.7" and rows["persyn"][5] == "5.6"
    assert "clock round" in said and "delivery instant" in said
    assert list(here.iterdir()) == []


def test_json_has_the_fixed_layout(here, capsys):
    runs = document(capsys, "--rhos", "0.1,0.4", "--methods", "gosgd,persyn,none,fully_sync")["runs"]
    assert [(run["method"], run["rho"]) for run in runs] == [
        *[("gosgd", 0.1), ("gosgd", 0.4), ("persyn", 0.1), ("persyn", 0.4), ("none", None), ("fully_sync", None)]
    ]
    for run in runs:
        assert set(run) >= KEYS
        assert (run["workers"], run["dim"], run["clock"], run["variance"], run["repeats"]) == (4, 5, "round", 1.0, 3)
        assert run["steps"] == list(range(1, 41))
        assert len(run["mean"]) == len(run["sem"]) == 40
    assert runs[0]["theory"] is None
    assert runs[2]["theory"][8:11] == pytest.approx([9 * 3 * 5, 0, 3 * 5])
    assert runs[4]["theory"][-1] == pytest.approx(40 * 3 * 5)
    assert runs[5]["mean"] == pytest.approx([0.0] * 40, abs=1e-6)


def test_every_method_and_both_clocks_and_deliveries_can_be_named(here, capsys):
    names = "none,fully_sync,persyn,easgd,easgd_async,downpour,gosgd,pairwise"
    for clock, delivery in (("round", "queued"), ("tick", "instant")):
        runs = document(
            capsys, "--methods", names, "--rhos", "0.4", "--clock", clock, "--delivery", delivery, "--alpha", "0.2"
        )["runs"]
        assert [run["method"] for run in runs] == names.split(",")
        assert {(run["clock"], run["delivery"]) for run in runs} == {(clock, delivery)}


def test_seed_and_variance_scale_and_repeat_the_figures(here, capsys):
    once, again = document(capsys), document(capsys)
    assert once == again
    other, larger = document(capsys, "--seed", "1"), document(capsys, "--variance", "4")
    assert other["runs"][0]["mean"] != once["runs"][0]["mean"]
    four_times = [4 * value for value in once["runs"][0]["mean"]]
    assert larger["runs"][0]["mean"] == pytest.approx(four_times, rel=1e-4)


def test_many_steps_are_measured_out_of_step_with_every_period(here, capsys):
    found = document(capsys, "--clock", "tick", "--steps", "9000", "--rhos", "0.2", "--repeats", "1")["runs"]
    steps = found[0]["steps"]
    assert len(steps) <= 2000 and steps[-1] == 9000
    stride = steps[1] - steps[0]
    assert 4 % stride and 5 % stride
    assert found[0]["sem"] == [None] * len(steps)
    # On average over whole periods of persyn, (M - 1) (tau M - 1) / 2M per dimension.
    late = [mean for step, mean in zip(steps, found[1]["mean"], strict=True) if step > 4500]
    assert sum(late) / len(late) / 5 == pytest.approx(3 * 19 / 8, rel=0.1)


def test_a_picture_and_a_file_of_figures_are_written(here, capsys):
    assert main([*SMALL, "--plot", "consensus.png", "--json", "consensus.json", "--methods", "gosgd,none,easgd"]) == 0
    assert (here / "consensus.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((here / "consensus.json").read_text())["runs"]) == 7
    assert "gosgd" in capsys.readouterr().out


def test_one_worker_is_always_in_consensus(here, capsys):
    runs = document(capsys, "--workers", "1", "--methods", "gosgd,persyn,none,pairwise,easgd,downpour")["runs"]
    assert all(run["mean"] == [0.0] * 40 for run in runs)


def test_live_processes_hold_the_simulated_level(here, capsys):
    """A file of the user's that is called like a package of ours hides nothing from them."""
    (here / "launch.py").write_text("raise RuntimeError('theirs')\n")
    before = jobs()
    arguments = [
        "--real",
        "--workers",
        "3",
        "--dim",
        "200",
        "--methods",
        "gosgd,persyn,none,easgd_async",
        "--rhos",
        "0.5",
    ]
    assert main([*SMALL, *arguments, "--plot", "live.png", "--json", "live.json"]) == 0
    found = json.loads((here / "live.json").read_text())
    assert [run["method"] for run in found["live"]] == ["gosgd", "persyn", "none", "easgd_async"]
    gosgd, persyn, none, easgd = found["live"]
    assert gosgd["steps"] == list(range(1, 41)) and gosgd["repeats"] == 1
    # Per dimension: 2 s, with s = 0 at every second step; 2 t.
    assert [value / 200 for value in persyn["mean"][:4]] == pytest.approx([2, 0, 2, 0], abs=0.6)
    assert none["mean"][-1] / 200 == pytest.approx(80, rel=0.3)
    exact = found["runs"][3]["theory"][20:]
    assert easgd["level"] == pytest.approx(sum(exact) / len(exact), rel=0.3)
    assert 0.3 < gosgd["level"] / found["runs"][0]["level"] < 3
    assert "live" in capsys.readouterr().out
    assert (here / "live.png").exists()
    assert jobs() == before


def test_a_live_process_that_dies_between_two_calls_is_named():
    """And is not mistaken for a reader of the output that has gone."""
    crew = Crew(World(1, 1, 1))
    try:
        (worker,) = crew._processes
        worker.kill()
        worker.join()
        with pytest.raises(RunFailedError, match="live worker 0 died"):
            crew.call("close")
    finally:
        crew.end()


def test_ctrl_c_ends_live_processes_and_gives_shared_memory_back(here):
    before = jobs()
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", *SMALL, "--real", "--steps", "30000", "--methods", "gosgd"],
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            until(lambda: jobs() != before or process.poll() is not None, 100.0)
            os.killpg(process.pid, signal.SIGINT)
            out, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGINT, said
    assert said.splitlines()[-1:] == ["gosgd: interrupted"] and "Traceback" not in said and out == ""
    assert jobs() == before
    until(lambda: in_session(process.pid) == [])
    assert list(here.iterdir()) == [] and processes(here) == []


def in_session(leader: int) -> list[int]:
    """Processes of a session that are still there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return found


BAD = {
    "a rate above 1": (["--rhos", "0.1,1.5"], "--rhos: got 1.5, expected numbers from 0 to 1"),
    "a rate below 0": (["--rhos=-0.1"], "--rhos: got -0.1, expected"),
    "a rate that is no number": (["--rhos", "0.1,x"], "--rhos: got x, expected"),
    "no rate": (["--rhos", "0.1,,0.4"], "--rhos: got '0.1,,0.4', expected a list such as"),
    "not a number": (["--rhos", "nan"], "--rhos: got nan"),
    "a period without end": (["--rhos", "0", "--methods", "easgd"], "got --rhos 0 for a method with a period"),
    "an unknown method": (["--methods", "gossgd"], "got unknown method 'gossgd', expected some of"),
    "a near miss": (["--methods", "gossgd"], "did you mean 'gosgd'?"),
    "no workers": (["--workers", "0"], "--workers: got 0, expected at least 1"),
    "no steps": (["--steps", "0"], "--steps: got 0, expected at least 1"),
    "no dimension": (["--dim", "0"], "--dim: got 0"),
    "no repeats": (["--repeats", "-1"], "--repeats: got -1"),
    "a negative seed": (["--seed", "-1"], "--seed: got -1"),
    "no variance": (["--variance", "0"], "--variance: got 0"),
    "endless variance": (["--variance", "inf"], "--variance: got inf"),
    "an unknown clock": (["--clock", "tock"], "--clock: got 'tock', expected one of round, tick"),
    "an unknown delivery": (["--delivery", "late"], "--delivery: got 'late', expected one of instant, queued"),
    "workers that are no number": (["--workers", "many"], "--workers: got 'many', expected a whole number"),
    "a rate at which moves diverge": (
        ["--methods", "easgd", "--alpha", "0.6"],
        "got alpha=0.6 for 4 workers, expected 0 < alpha < 0.4",
    ),
    "an elastic rate for nobody": (["--alpha", "0.1"], "--alpha: got 0.1 for gosgd, persyn, expected easgd"),
    "a picture of no known kind": (["--plot", "picture.txt"], "--plot: got picture.txt, expected a file that ends in"),
    "a picture nowhere": (["--plot", "nowhere/picture.png"], "is in nowhere, which is not a folder"),
    "figures nowhere": (["--json", "nowhere/figures.json"], "is in nowhere, which is not a folder"),
    "figures in place of a folder": (["--json", "."], "is a folder"),
    "more than there is memory": (["--dim", "1000000000000"], "lower --repeats or --dim"),
    "a method that only the simulator has": (["--real", "--methods", "pairwise"], "--real: got --methods pairwise"),
    "live ticks": (["--real", "--clock", "tick"], "--real: got --clock tick, expected round"),
    "too many processes": (["--real", "--workers", "65"], "--real: got 65 workers, expected at most 64"),
}


@pytest.mark.parametrize(("arguments", "says"), BAD.values(), ids=BAD.keys())
def test_what_is_refused(arguments, says, here, capsys):
    try:
        code = main([*SMALL, *arguments])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    out, said = capsys.readouterr()
    assert code == 2 and out == ""
    assert says in said and 1 <= len(said.splitlines()) <= 2
    assert list(here.iterdir()) == []


def test_without_matplotlib_it_says_what_to_install(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*SMALL, "--plot", "picture.png", "--json", "figures.json"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "gosgd: --plot: matplotlib is not installed; pip install 'gosgd[plots]'"
    ]
    assert list(here.iterdir()) == []
