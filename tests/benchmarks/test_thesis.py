"""The papers' recipes: each is a job that can be run, one of each form is run on pretended data, pages come from JSON.

Runs are commands of their own, forked where torch has been imported.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.commands import Command, environment

from benchmarks import consensus_figure, curves, runs
from benchmarks.thesis import __main__ as thesis
from benchmarks.thesis import pages, plots, pretend, recipe, work
from trainers.run_directory import RunDirectory
from trainers.schema import Run

pytestmark = pytest.mark.timeout(60)

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results"
TRIED = {
    "figure_2_3": "simulation",
    "figure_5_3": "curves of points",
    "figure_5_1": "densities",
    "table_3_1": "lines of accuracies",
    "table_4_2": "table of accuracies with binary layers",
    "table_5_1": "table of errors",
    "vcl_table_1": "table of seconds",
}
"""Run by default, one for each form and measure; the others with GOSGD_SLOW_TESTS=1."""


@pytest.fixture
def started(monkeypatch):
    """The commands that were started."""
    found = []
    with contextlib.ExitStack() as stack:

        def start(command, cwd, **_):
            found.append(stack.enter_context(Command(Path(cwd), command[3:], environment())))
            return found[-1]

        process = SimpleNamespace(
            Popen=start,
            STDOUT=subprocess.STDOUT,
            DEVNULL=subprocess.DEVNULL,
            TimeoutExpired=subprocess.TimeoutExpired,
        )
        monkeypatch.setattr(runs, "subprocess", process)
        yield found


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_is_made_of_jobs(name, tmp_path):
    wanted = recipe.read(name)
    place = work.Workplace(tmp_path / "runs" / name, tmp_path, tmp_path)
    (tmp_path / "runs" / "fewer-held-out").mkdir(parents=True)
    (tmp_path / "runs" / "fewer-held-out" / "test_batch").touch()
    for scale in recipe.SCALES:
        tasks = list(recipe.tasks(wanted, scale)) if wanted.shows != "simulation" else []
        assert tasks or wanted.shows == "simulation"
        for task in tasks:
            settings = Run.model_validate(place.located(task, wanted.measure))
            assert settings.run.workers == task.workers
            if wanted.measure == "seconds":
                assert settings.run.checkpoint_every == 0
            elif scale != "smoke":
                assert 0 < settings.run.checkpoint_every <= 1000
    assert not wanted.scales["paper"].less


@pytest.mark.parametrize(
    "name", [name if name in TRIED else pytest.param(name, marks=pytest.mark.slow) for name in recipe.names()]
)
def test_a_recipe_runs_and_is_presented(name, tmp_path, capsys, started):
    thesis.main([name, "--scale", "smoke", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    page = (tmp_path / "smoke" / f"{name}.md").read_text()
    assert page.startswith(f"# {recipe.read(name).title}\n")
    assert "| --- |" in page and "one thread a worker; load " in page
    assert (tmp_path / "smoke" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "workers" in said or recipe.read(name).shows == "simulation"
    again = {"table_3_1": "table_3_1", "figure_2_4": "figure_2_6"}.get(name)
    if again:
        before = len(started)
        thesis.main([again, "--scale", "smoke", "--out", str(tmp_path)])
        assert len(started) == before, "what is there already is not run again"
        assert f"[{again}.json]" in (tmp_path / "smoke" / f"{again}.md").read_text()
        assert again != name or (tmp_path / "smoke" / f"{name}.md").read_text() == page


def small(steps, **train):
    """A recipe of one run, of digits."""
    job = {
        "data": {"name": "digits", "batch_size": 8},
        "model": {"name": "mlp", "hidden": [8]},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "exchange": {"method": "none"},
        "train": {"steps": steps, **train},
        "run": {"workers": 1, "log_every": 10, "tensorboard": False},
    }
    words = {"title": "Digits", "source": "nobody", "claim": "none", "shows": "table"}
    return list(recipe.tasks(recipe.Recipe(**words, job=job, scales={"cpu": recipe.Extent()}), "cpu"))


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(tmp_path, started):
    tasks, place = small(3000), work.Workplace(tmp_path, tmp_path, None)
    folder = tmp_path / tasks[0].name
    checkpoints = folder / "checkpoints" / "worker-0"

    def first():
        with contextlib.suppress(RuntimeError):
            work.run(tasks, "accuracy", place)

    trying = threading.Thread(target=first)
    trying.start()
    until = time.monotonic() + 30
    while not list(checkpoints.glob("step-*")):
        assert time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.01)
    # The launcher first: it would start the worker again, and a worker whose launcher has died saves.
    started[0].send_signal(signal.SIGSTOP)
    os.kill(int((folder / "workers" / "0" / "pid").read_text()), signal.SIGKILL)
    started[0].kill()
    trying.join(20)
    step = max(int(path.stem.removeprefix("step-")) for path in checkpoints.glob("step-*"))
    before = len(runs.lines(folder / "workers" / "0" / "metrics.jsonl"))
    assert 0 < step < 3000 and not place.trained(tasks[0])

    (row,) = work.run(tasks, "accuracy", place)
    assert row["steps"] == 3000 and row["figures"] > 10 and len(row["machines"]) == 2
    went_on = [line["step"] for line in runs.lines(folder / "workers" / "0" / "metrics.jsonl")[before:]]
    assert went_on == list(range(step + 10, 3001, 10))


def test_a_run_that_a_killed_command_left_behind_is_waited_for(tmp_path, started, capsys):
    tasks, place = small(4000), work.Workplace(tmp_path, tmp_path, None)
    left = work._started(tasks[0], place, "accuracy")
    until = time.monotonic() + 30
    while RunDirectory(left.folder).running() is None:
        assert time.monotonic() < until and not left.ended()
        time.sleep(0.01)
    (row,) = work.run(tasks, "accuracy", place)
    assert left.summary()["steps"] == row["steps"] == 4000
    steps = [line["step"] for line in runs.lines(left.folder / "workers" / "0" / "metrics.jsonl")]
    assert steps == list(range(10, 4001, 10)), "nothing was trained twice"
    assert "waits for the run" in capsys.readouterr().err


def test_a_run_with_other_settings_is_trained_anew(tmp_path, started, capsys):
    place = work.Workplace(tmp_path, tmp_path, None)
    for steps, commands in ((20, 1), (20, 1), (30, 2)):
        (row,) = work.run(small(steps), "accuracy", place)
        assert (row["steps"], len(started), len(row["machines"])) == (steps, commands, 1)
        assert "settings" not in row
    assert "its settings are others now" in capsys.readouterr().err
    (task,) = small(40)
    old = {"row": "", "arm": "", "seed": 0, "steps": 20, "figures": 50.0}
    place.keep(task, old)
    assert work.run([task], "accuracy", place) == [old], "kept before settings were"


def test_a_recipe_without_its_data_is_skipped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretend, "write", lambda folder: folder)
    names = ["table_5_2", "figure_a_2", "figure_2_6"]
    with pytest.raises(SystemExit) as ended:
        thesis.main([*names, "--scale", "smoke", "--out", str(tmp_path)])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "table_5_2 is skipped: " in said and "figure_2_6 is skipped: " in said and "svhn" in said.lower()
    assert "--data-root" in said and "data.root" not in said
    assert "(figure_a_2.md)" in (tmp_path / "smoke" / "README.md").read_text()


def test_what_is_not_there_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(thesis, "RESULTS", tmp_path)
    wrong = {
        ("kept",): "where no results are kept; expected a folder with a NAME.json",
        ("pages",): "where no results are kept",
        ("figure_2_3", "table_9"): "got recipe 'table_9', expected one of figure_2_1",
    }
    for names, why in wrong.items():
        with pytest.raises(SystemExit) as ended:
            thesis.main([*names, "--out", str(tmp_path / "runs")])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and why in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [[], ["list"], ["LIST"]])
def test_all_names_are_listed(words, capsys):
    thesis.main(words)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == recipe.names()


def test_the_kept_results_are_made_again_at_their_scale(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(thesis, "RESULTS", tmp_path)
    thesis.main(["figure_a_1", "--scale", "smoke", "--pages", str(tmp_path), "--out", str(tmp_path / "runs")])
    page = tmp_path / "figure_a_1.md"
    made = page.read_text()
    assert "figure 2.3" in made and "--scale smoke" in made
    page.write_text("by hand")
    thesis.main(["pages"])
    assert page.read_text() == made
    page.unlink()
    thesis.main(["kept", "--out", str(tmp_path / "runs")])
    assert page.read_text().partition("\nMeasured")[0] == made.partition("\nMeasured")[0]


@pytest.mark.parametrize("name", [path.stem for path in sorted(RESULTS.glob("*.json"))])
def test_a_page_is_what_its_figures_say(name):
    found = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == pages.render(name, recipe.read(name), found), (
        "docs/results is made by `python -m benchmarks.thesis pages`, not by hand"
    )
    assert (RESULTS / f"{name}.png").is_file()


def test_the_list_of_results_is_whole():
    assert (RESULTS / "README.md").read_text() == pages.index(thesis.kept(RESULTS))


def test_a_change_replaces_another_component_and_completes_the_same():
    base = {"model": {"name": "cnn", "width": 2.0}, "train": {"epochs": 3, "clip": 1.0}, "seed": 0}
    other = recipe.merged(base, {"model": {"name": "mlp"}, "train": {"steps": 5}})
    assert other == {"model": {"name": "mlp"}, "train": {"steps": 5, "clip": 1.0}, "seed": 0}
    same = recipe.merged(base, {"model": {"dropout": 0.5}})
    assert same["model"] == {"name": "cnn", "width": 2.0, "dropout": 0.5}
    assert base["train"] == {"epochs": 3, "clip": 1.0}


def test_a_recipe_like_another_has_its_runs_but_not_its_words():
    one, other = recipe.read("table_5_1"), recipe.read("table_5_2")
    assert other.job["data"]["name"] == "svhn" and other.job["optimizer"] == one.job["optimizer"]
    assert (other.arms, other.scales, other.measure) == (one.arms, one.scales, one.measure)
    assert "REVE, one Gaussian" not in other.paper["ResNet"]
    assert not recipe.read("figure_a_2").text and recipe.read("figure_a_2").job["variance"] == 4.0


def test_rows_are_paired_by_seed_and_numbers_are_read_from_names(tmp_path):
    wanted = recipe.read("table_3_1")
    rows = [
        {"row": "30K", "arm": arm, "seed": seed, "figures": value}
        for arm, found in {"Simple CNN": [60.0, 62.0], "MaxMin CNN": [61.0, 64.0]}.items()
        for seed, value in enumerate(found)
    ]
    page = pages.table(wanted, {"rows": rows})
    assert "| 30K | 61.0 ± 1.4 (69.98) | 62.5 ± 2.1 (73.81) |" in page
    assert "| 30K | +1.5 ± 0.7 (+3.83) |" in page
    assert [plots.number(name) for name in ("30K", "1,000", "15M")] == [30e3, 1e3, 15e6]


def test_figures_of_another_measure_stand_in_a_table_of_their_own():
    rows = [{"row": "ELU", "arm": arm, "seed": 0, "figures": 90.0} for arm in ("none", "VCL")]
    page = pages.table(recipe.read("vcl_table_4"), {"rows": rows})
    assert "| ELU | 90.0 | 90.0 |" in page
    assert "wins on 44 tables" in page and page.endswith("| SELU | 11 | 15 | 28 |")


def test_the_page_says_how_busy_the_machine_was_when_runs_began():
    def machine(minute, load):
        named = {"cpu": "Abacus", "cpus": 2, "torch": "2.0", "started": f"2026-01-01T00:0{minute}:00+0000"}
        return {**named, "load_average": [load, 0.0, 0.0]}

    def said(rows, **more):
        figures = {"GoSGD": {"level": 1.0, "deviation_in_time": 0.5}}
        return pages.render(
            "figure_2_3",
            recipe.read("figure_2_3"),
            {"scale": "smoke", "rows": [{"figures": figures} | row for row in rows], **more},
        )

    assert "Abacus, torch 2.0, one thread a worker; load 0.4 at the start. " in said([{"machines": [machine(0, 0.4)]}])
    wanted, found = recipe.read("table_3_1"), {"scale": "smoke"}
    rows = [{"row": "30K", "arm": "Simple CNN", "figures": 50.0, "machines": [machine(at, at + 0.4)]} for at in (2, 1)]
    page = pages.render("table_3_1", wanted, found | {"rows": rows})
    assert "load 1.4 at the start of the first run, 2.4 at most at that of any" in page
    page = pages.render("table_3_1", wanted, found | {"rows": [*rows, {**rows[0], "machines": []}]})
    assert "not recorded" not in page
    del rows[0]["machines"]
    assert "; not recorded for 1 of 2 runs." in pages.render("table_3_1", wanted, found | {"rows": rows})
    assert "load 9.2 when the command began, not recorded later." in said([{}], machine=machine(0, 9.2))
    assert "was not recorded" in said([{}])


def test_training_losses_stand_at_their_own_step():
    found = [
        {"step": 400, "oldest_step": 200, "seconds": 1.0, "training_loss": 2.0, "test_loss": 2.1},
        {
            "step": 400,
            "oldest_step": 300,
            "evaluated_step": 400,
            "seconds": 2.0,
            "training_loss": 1.0,
            "test_loss": 1.1,
        },
    ]
    assert [one["x"] for one in plots._placed(found, "step", "training_loss")] == [200, 400]
    assert [(one["x"], one["test_loss"]) for one in plots._placed(found, "step", "test_loss")] == [(400, 1.1)]
    assert [one["x"] for one in plots._placed(found, "seconds", "training_loss")] == [2.0]


def test_the_clock_of_an_interrupted_run_stands_still_meanwhile(tmp_path):
    # A step a second; killed after step 6, it goes on 50 s later from its checkpoint of step 4.
    times = [(2, 102.0), (4, 104.0), (6, 106.0), (6, 158.0), (8, 160.0)]
    (tmp_path / "workers" / "0").mkdir(parents=True)
    with (tmp_path / "workers" / "0" / "metrics.jsonl").open("w") as file:
        for step, at in times:
            file.write(json.dumps({"step": step, "time": at, "loss": at, "samples_per_second": 8}) + "\n")
    figures = {"consensus_error": 0.0, "test_loss": 1.0, "test_accuracy": 0.5}
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step, at in times[1:]:
            file.write(
                json.dumps({"step": step, "time": at, "oldest_step": step, "newest_step": step, **figures}) + "\n"
            )
    (tmp_path / "env.json").write_text('{"job": 1}')
    found = curves.points(tmp_path, together=True, batch_size=8)
    assert [(one["step"], one["seconds_recorded"]) for one in found] == [(4, 4.0), (6, 6.0), (8, 8.0)]
    assert [one["training_loss"] for one in found] == [104.0, 158.0, 160.0], "of the job that went on"


def test_the_level_of_the_last_half_is_that_of_whole_periods():
    # 20 of 40 steps: two periods of PerSyn at rho = 0.1, in which 7 times 0 to 9 updates are apart.
    found = consensus_figure.figure(None, repeats=20, dimension=100, steps=40, variance=4.0)
    assert found["PerSyn rho=0.1"]["level"] == pytest.approx(4 * 7 * 4.5, rel=0.02)


def test_pretended_images_show_their_class():
    x, y = pretend.images(40, 10, 32, 3, 0)
    assert x.shape == (40, 3, 32, 32)
    assert all(image.max() >= 200 or (image >= 100).any() for image in x)
    assert sorted(set(y.tolist())) == list(range(10))
