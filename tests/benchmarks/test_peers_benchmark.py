"""The benchmark beside other libraries: what its sheets amount to, and small jobs of torch's engines and of ours."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loops import NETWORKS
from benchmarks.peers import __main__ as peers
from benchmarks.peers import environments, figures, launch, pages, table
from benchmarks.peers.sheets import Sheets, Task
from benchmarks.thesis import pretend

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parent.parent.parent


def noted(ends, losses):
    return np.array([[end, loss, 1.0] for end, loss in zip(ends, losses, strict=True)])


def test_the_target_is_reached_by_all_workers_batches_in_the_order_of_time():
    width = figures.AVERAGED
    fast = noted(np.arange(1, 1 + 2 * width), [2.0] * width + [0.0] * width)
    slow = noted([0.5 + 5 * at for at in range(width)], [2.0] * width)
    alone = figures.reached([fast], 1.0)
    assert alone == fast[width + width // 2 - 1, 0]
    assert figures.reached([fast, slow], 1.0) > alone
    assert figures.reached([fast], -1.0) is None and figures.reached([fast[:3]], 3.0) is None


def test_a_gap_is_measured_from_the_kill_on():
    steps = noted([1.0, 2.0, 10.0, 10.5, 13.0, 13.5], [1.0] * 6)
    assert figures.longest_gap(steps, since=10.2) == 2.5
    assert figures.longest_gap(steps, since=4.0) == 6.0


def test_figures_of_a_job_that_did_not_go_on_have_no_gap_and_no_target():
    task = peers.task(table.BY_NAME["ddp"], pages.KILLED, "200k", 30)
    steps = [noted(np.arange(1.0, 41.0), [0.0] * 40)] * 2
    stopped = launch.Ran(launch.FAILED, "reset by peer", killed=5.0, ended=50.0, steps=steps)
    found = figures.figures(stopped, task, target=1.0)
    assert found["outcome"] == launch.FAILED and found["target_s"] is None
    assert "longest_gap_s" not in found and "samples_per_s" not in found
    assert figures.figures(launch.Ran(launch.FAILED, "no module"), task, 1.0) == {
        "outcome": launch.FAILED,
        "said": "no module",
    }


def test_a_row_is_shown_though_another_is_ahead_and_the_claim_says_by_how_much(capsys):
    quick = {"outcome": launch.FINISHED, "said": "", "turns": [[1.0, 1.1]], "samples_per_s": 90.0, "target_s": 1.0}
    slow = {**quick, "turns": [[1.0, 1.5]], "samples_per_s": 60.0, "target_s": None}
    stuck = {"outcome": launch.HANGS, "said": "no step for 5 s"}
    found = {"runs": {pages.PLAIN: {"200k": {"gosgd": [slow], "ddp": [quick], "averager": [stuck]}}}}
    claims = peers.show({**found, "skipped": {"torchft": "no network"}})
    said = capsys.readouterr().out
    assert "hangs (1)" in said and "skipped: torchft 0.2.0 LocalSGD 10: no network" in said
    assert "1.100" in said and "no step for 5 s" in said
    assert [round(claim.measured, 3) for claim in claims] == [1.364, 0.667]
    assert [claim.sense for claim in claims] == ["<=", ">="]


def test_the_page_holds_the_tables_of_the_kept_figures():
    page, kept = peers.PAGE.read_text(), Path(peers.__file__).parents[1] / "results" / "peers.json"
    document = json.loads(kept.read_text())
    assert all(f"<!-- {scenario} {model} -->" in page for scenario in pages.SCENARIOS for model in peers.LEARNING_RATE)
    assert pages.filled(page, document) == page, "python -m benchmarks.peers --page benchmarks/results/peers.json"


def test_the_readme_quotes_the_kept_figures():
    found = json.loads((ROOT / "benchmarks/results/peers.json").read_text())["results"]["runs"]

    def row(what, scenario, column, best, *, digits):
        measure, _, _ = pages.SCALE[column]
        own, other, ddp = (measure(found[scenario]["7m"][name]) for name in ("gosgd", best, "ddp"))
        cells = ["ends with an error" if one is None else f"{one.median:,.{digits}f}" for one in (own, other, ddp)]
        cells[1] += f" ({table.BY_NAME[best].described.split()[1 if best == 'averager' else 0]})"
        return f"| {what} | {' | '.join(cells)} |"

    for line in (
        row("a step, over one without exchange", pages.PLAIN, pages.STEP, "averager", digits=2),
        row("samples/s, one worker slowed five times", pages.SLOW, pages.SAMPLES, "averager", digits=0),
        row("longest wait of the survivor of a kill, s", pages.KILLED, pages.GAP, "torchft", digits=2),
    ):
        assert line in (ROOT / "README.md").read_text(), line


def test_a_library_without_an_environment_is_skipped_with_the_reason(tmp_path):
    row = table.BY_NAME["decent_dp"]
    assert "--environments" in environments.prepare(row, None).reason
    unknown = row._replace(name="unknown", package=("torch==0.0.1", "torch"))
    (tmp_path / "file").touch()
    assert "cannot be installed" in environments.prepare(unknown, tmp_path / "file").reason


@pytest.mark.slow
def test_survivors_go_on_or_do_not_and_nothing_is_left_behind(tmp_path, capsys, monkeypatch):
    (shared := tmp_path / "shared").mkdir()
    monkeypatch.setenv("GOSGD_SHM_DIR", str(shared))
    tiny = ["--models", "200k", "--rounds", "1", "--steps", "24", "--patience", "5", "--scenarios", "killed"]
    peers.main([*tiny, "--engines", "gosgd,ddp,decent_dp", "--json", str(tmp_path / "out.json")])
    document = json.loads((tmp_path / "out.json").read_text())
    runs = document["results"]["runs"]["killed"]["200k"]
    (alone,), (stopped,) = runs["gosgd"], runs["ddp"]
    assert alone["outcome"] == launch.FINISHED and alone["steps"][0] == 24 and alone["longest_gap_s"] < 5
    assert alone["steps"][1] < 24
    assert stopped["outcome"] in (launch.FAILED, launch.HANGS) and stopped["said"]
    assert "decent_dp" in document["results"]["skipped"]
    assert "ends with an error" in capsys.readouterr().out
    assert not list(shared.iterdir())


def test_engines_take_turns_with_a_plain_loop_and_a_slowed_worker_takes_its_time():
    slow = peers.task(table.BY_NAME["persyn"], pages.SLOW, "200k", 10)
    task = dataclasses.replace(slow, pairs=2, turn=10)
    model, images = NETWORKS["200k"].build(), pretend.images(100, 10, 28, 3, seed=0)
    with launch.Nursery(Path(sys.executable), task.module) as nursery:
        ran = launch.run(nursery, task, model, images, patience_s=10, limit_s=50)
    found = figures.figures(ran, task, target=0.0)
    assert ran.outcome == launch.FINISHED and found["steps"] == [10, 10] and found["met_per_step"] == 0.1
    assert found["target_s"] is None and found["samples_per_s"] > 0
    assert len(found["turns"]) == 4 and all(seconds > 0 for turn in found["turns"] for seconds in turn)
    slept = (task.slowed - 1) * ran.results[1]["plain_s"]
    assert np.diff(ran.steps[1][:, 0]).min() >= slept


def test_an_engine_that_cannot_be_imported_is_told_of():
    task = peers.task(table.BY_NAME["none"], pages.PLAIN, "200k", 10)
    images = pretend.images(20, 10, 28, 3, seed=0)
    with launch.Nursery(Path(sys.executable), "unknown") as nursery:
        ran = launch.run(nursery, task, NETWORKS["200k"].build(), images, patience_s=10, limit_s=50)
    assert ran.outcome == launch.FAILED and "imported" in ran.said


def test_ctrl_c_ends_workers_and_gives_the_shared_memory_back(tmp_path):
    command = [sys.executable, "-m", "benchmarks.peers", "--engines", "gosgd", "--models", "200k", "--steps", "10000"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "GOSGD_SHM_DIR": str(tmp_path)}
    run = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 80
        while not (logs := list(tmp_path.glob("peers-*/0.log"))):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.05)
        sheets = Sheets(logs[0].parent, Task.read(logs[0].parent))
        while not sheets.made(1):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 128 + signal.SIGINT
    finally:
        run.kill()
        run.wait()
    assert not [*tmp_path.glob("peers-*"), *tmp_path.glob("gosgd-*")]
