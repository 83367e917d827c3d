"""The papers' recipes: each is a job that can be run, some are run on pretended data, and pages come from JSON."""

import json
from pathlib import Path

import pytest

from benchmarks.thesis import pages, plots, pretend, recipe, work
from benchmarks.thesis.__main__ import kept, main
from trainers.schema import Run

pytestmark = pytest.mark.timeout(60)

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results"
TRIED = ["figure_2_3", "figure_5_1", "table_3_1"]


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_is_made_of_jobs(name, tmp_path):
    wanted = recipe.read(name)
    place = work.Workplace(tmp_path / "runs", tmp_path, tmp_path)
    for scale in recipe.SCALES:
        assert wanted.shows == "simulation" or list(recipe.tasks(wanted, scale))
        for task in recipe.tasks(wanted, scale) if wanted.shows != "simulation" else ():
            assert Run.model_validate(place.located(task.settings, less=False)).run.workers == task.workers
    assert not wanted.scales["paper"].less
    if wanted.runs_of:
        theirs = recipe.read(wanted.runs_of)
        assert (wanted.job, wanted.arms, wanted.measure) == (theirs.job, theirs.arms, theirs.measure)


@pytest.mark.parametrize(
    "name", [name if name in TRIED else pytest.param(name, marks=pytest.mark.slow) for name in recipe.names()]
)
def test_a_recipe_runs_and_is_presented(name, tmp_path, capsys):
    main([name, "--scale", "smoke", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    page = (tmp_path / "smoke" / f"{name}.md").read_text()
    assert page.startswith(f"# {recipe.read(name).title}\n")
    assert "| --- |" in page
    assert (tmp_path / "smoke" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "workers" in said or recipe.read(name).shows == "simulation"
    if name == "table_3_1":
        main([name, "--scale", "smoke", "--out", str(tmp_path)])
        assert "workers" not in capsys.readouterr().err, "what is there already is not run again"
        assert (tmp_path / "smoke" / f"{name}.md").read_text().splitlines()[:12] == page.splitlines()[:12]


@pytest.mark.parametrize("name", [path.stem for path in sorted(RESULTS.glob("*.json"))])
def test_a_page_is_what_its_figures_say(name):
    found = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == pages.render(name, recipe.read(name), found), (
        "docs/results is made by `python -m benchmarks.thesis pages --pages docs/results`, not by hand"
    )
    assert (RESULTS / f"{name}.png").is_file()


def test_the_list_of_results_is_whole():
    assert (RESULTS / "README.md").read_text() == pages.index(kept(RESULTS))


def test_a_change_replaces_another_component_and_completes_the_same(tmp_path):
    base = {"model": {"name": "cnn", "width": 2.0}, "train": {"epochs": 3, "clip": 1.0}, "seed": 0}
    other = recipe.merged(base, {"model": {"name": "mlp"}, "train": {"steps": 5}})
    assert other == {"model": {"name": "mlp"}, "train": {"steps": 5, "clip": 1.0}, "seed": 0}
    same = recipe.merged(base, {"model": {"dropout": 0.5}})
    assert same["model"] == {"name": "cnn", "width": 2.0, "dropout": 0.5}
    assert base["train"] == {"epochs": 3, "clip": 1.0}
    with pytest.raises(ValueError, match="got recipe 'table_9', expected one of figure_2_1"):
        recipe.read("table_9")


def test_rows_are_paired_by_seed_and_numbers_are_read_from_names():
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


def test_pretended_images_show_their_class():
    x, y = pretend.images(40, 10, 32, 3, 0)
    assert x.shape == (40, 3, 32, 32)
    assert all(image.max() >= 200 or (image >= 100).any() for image in x)
    assert sorted(set(y.tolist())) == list(range(10))
