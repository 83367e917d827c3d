"""Every benchmark runs at a tiny size, says what it measured, and gives everything back; no figure is judged here."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import (
    accuracy,
    curves,
    exchange,
    herd,
    regularizers,
    report,
    runs,
    slow_worker,
    stopped_workers,
    stress,
    trainer,
)
from gossip.layout import Member
from gossip.mail import Letter

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 30.0


def written(path: Path) -> dict:
    document = json.loads(path.read_text())
    assert document["machine"]["cpu"] and document["machine"]["torch"] and document["machine"]["cpus"] >= 1
    for bar in document["bars"]:
        assert bar["measured"] > 0, bar
    return document


def test_exchange_times_every_variant_in_the_same_processes(tmp_path, capsys):
    tiny = ["--models", "200k", "--workers", "2", "--rounds", "1", "--steps", "10"]
    exchange.main([*tiny, "--idle-workers", "3", "--idle-calls", "50", "--json", str(tmp_path / "out.json")])
    (found,) = written(tmp_path / "out.json")["results"]["exchange"]
    assert found["parameters"] == 197_898
    assert list(found["variants"]) == exchange.VARIANTS
    for lists in found["variants"].values():
        assert [len(row) for row in lists["step_s"]] == [2]
        assert all(seconds > 0 for row in lists["step_s"] for seconds in row)
    assert sum(exchange.flattened(found["variants"]["gossip 1"]["merged"])) > 0
    assert sum(exchange.flattened(found["variants"]["none"]["exchange_s"])) == 0
    said = capsys.readouterr().out
    assert "floor" in said and "gossip rho=0.4" in said and "idle step() at M = 3" in said


def test_trainer_is_compared_with_the_loop_by_hand(tmp_path, capsys):
    trainer.main(["--rounds", "2", "--steps", "3", "--json", str(tmp_path / "out.json")])
    found = written(tmp_path / "out.json")["results"]
    assert len(found["hand_s"]) == len(found["trainer_s"]) == 2
    assert "learning rate" in found["parts_s"]
    assert "samples/s" in capsys.readouterr().out


def test_regularizers_are_timed_in_turns_with_the_plain_step(tmp_path, capsys):
    regularizers.main(["--quick", "--json", str(tmp_path / "out.json")])
    document = written(tmp_path / "out.json")
    found = document["results"]["200k"]
    assert {"plain", "shade", "vcl", "reve", "batch normalisation"} <= found["steps_s"].keys()
    assert all(len(steps) == 2 for steps in found["steps_s"].values())
    assert min(found["kept"]["shade"], found["kept"]["vcl"]) > found["kept"]["plain"]
    assert "kept, MB more" in capsys.readouterr().out


def test_slow_worker_shows_gossip_and_fully_sync_in_both_conditions(tmp_path, capsys):
    slow_worker.main(["--rounds", "1", "--steps", "5", "--json", str(tmp_path / "out.json")])
    paces = written(tmp_path / "out.json")["results"]["paces"]
    assert all(len(paces[method][how]) == 1 for method in slow_worker.METHODS for how in ("undisturbed", "slowed"))
    assert "fully_sync" in capsys.readouterr().out


def test_stopped_workers_lose_no_mass_and_come_back(tmp_path, capsys):
    tiny = ["--workers", "4", "--stopped", "1", "--seconds", "0.6", "0.6", "0.3", "--peer-seconds", "0.3"]
    stopped_workers.main([*tiny, "--json", str(tmp_path / "out.json")])
    found = written(tmp_path / "out.json")["results"]
    assert found["audit_at_rest"]["balanced"] and found["audit_at_rest"]["lost"] == 0
    assert found["mass_after_leaving"]["whole"]
    assert all(found["gossip"][phase]["balanced"] for phase in stopped_workers.PHASES)
    assert found["gossip"]["stopped"]["steps_of_the_stopped"] < found["gossip"]["undisturbed"]["steps_of_the_stopped"]
    assert found["gossip"]["stopped"]["among_the_rest"] > 0
    assert found["averaging"]["stopped"]["steps_of_the_rest"] < found["averaging"]["undisturbed"]["steps_of_the_rest"]
    assert "merged among the 3" in capsys.readouterr().out


def test_stress_counts_torn_and_doubled_messages_of_members_that_are_killed(tmp_path, capsys):
    stress.main(["--quick", "--messages", "3000", "--json", str(tmp_path / "out.json")])
    found = written(tmp_path / "out.json")["results"]
    assert found["merged"] >= 3000 and found["torn"] == found["doubled"] == 0
    assert found["balanced"] == found["frozen instants"] + found["looks while moving"] > 0
    assert found["at the end"]["balanced"] and found["at the end"]["in flight"] == 0
    assert found["left in good order"] == 3
    assert "kills" in capsys.readouterr().out
    letter = Letter(Member(5, 77), Member(0, 3), 123_456)
    assert herd.letter_of(herd.identity(letter)) == letter


def test_accuracy_is_that_of_a_run_of_the_product(tmp_path, capsys):
    found = accuracy.trained("digits", "data", "gossip", 0, 30, 1, tmp_path / "runs")
    assert 0 < found["test"] <= 100 and 0 < found["train"] <= 100
    kept = json.loads((tmp_path / "runs" / "digits-gossip-0-30" / "final" / "summary.json").read_text())
    assert kept["method"] == "gosgd" and kept["steps"] == 30 and 100 * kept["accuracy"] == found["test"]
    pairs = [dict.fromkeys(accuracy.METHODS, found)] * 2
    behind = {method: accuracy.interval([0.0, 0.5]) for method in accuracy.GOSSIP}
    compared = {"data": "digits", "workers": 1, "steps": 30, "pairs": pairs, "less fully_sync": behind}
    assert [bar.measured for bar in accuracy.show(compared)] == [0.25, 0.25]
    assert "digits: M = 1" in capsys.readouterr().out


def test_a_failing_run_is_told_with_what_it_said(tmp_path):
    with pytest.raises(RuntimeError, match=r"exit code 2(.|\n)*bach_size"):
        runs.train({**runs.recipe("digits"), "data": {"name": "digits", "bach_size": 16}}, 1, tmp_path / "run")


def test_curves_stop_the_clock_while_everybody_waits_for_an_evaluation(tmp_path, capsys):
    # Lines every 2 steps of 1 s each; after step 4 an evaluation of 3 s, of which the last has no line behind it.
    logs = [(2, 102.0), (4, 104.0), (6, 109.0), (8, 111.0)]
    (tmp_path / "workers" / "0").mkdir(parents=True)
    with (tmp_path / "workers" / "0" / "metrics.jsonl").open("w") as file:
        for step, at in logs:
            line = {"step": step, "time": at, "loss": 1.0 / step, "samples_per_second": curves.BATCH_SIZE}
            file.write(json.dumps(line) + "\n")
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step, at in [(4, 107.0), (8, 114.0)]:
            line = {"step": step, "time": at, "oldest_step": step - 1, "newest_step": step + 1, "consensus_error": 0.5}
            file.write(json.dumps(line | {"test_loss": 2.0, "test_accuracy": 0.25}) + "\n")
    together, apart = (curves.points(tmp_path, both, curves.BATCH_SIZE) for both in (True, False))
    assert [point["seconds_recorded"] for point in apart] == [7.0, 14.0]
    assert [point["seconds"] for point in together] == [4.0, 8.0]
    assert [point["seconds"] for point in apart] == [4.0, 11.0]
    assert [point["step"] for point in apart] == [5, 9]
    assert [point["training_loss"] for point in apart] == [0.25, 0.125]
    drawn = [{"method": "gosgd rho=0.1", "workers": 1, "points": apart, "final": {"loss": 2.0, "accuracy": 0.5}}]
    curves.show(drawn)
    assert "25.00%" in capsys.readouterr().out
    curves.plot(drawn, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_interval_of_paired_differences_is_students():
    found = accuracy.interval([0.0, 1.0, 2.0])
    assert found["mean"] == 1.0
    assert found["half_width"] == pytest.approx(4.302653 / 3**0.5)  # t quantile 0.975, 2 degrees of freedom


def test_spread_is_the_median_with_its_quartiles():
    assert report.spread([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
    assert report.spread([7.0]) == (7.0, 7.0, 7.0)


def test_a_benchmark_under_ctrl_c_leaves_no_process_and_no_shared_memory():
    shared = Path(os.environ.get("GOSGD_SHM_DIR", "/dev/shm"))
    before = set(shared.iterdir())
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.slow_worker", "--rounds", "100000"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None and process.stderr.readline().startswith("round 1")
        assert set(shared.iterdir()) > before
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(DEADLINE_S) == 128 + signal.SIGINT
        assert process.stderr.read().count("Traceback") == 0
        deadline = time.monotonic() + DEADLINE_S
        while in_session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert in_session(process.pid) == []
        assert set(shared.iterdir()) == before
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stderr.close()


def in_session(leader: int) -> list[str]:
    """Processes of a session that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(stat.parent.name)
    return found
