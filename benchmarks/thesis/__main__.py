"""The papers' figures and tables: `python -m benchmarks.thesis [NAME ...] [--scale smoke|cpu|paper]`.

Without names it lists them; `all` runs all, `kept` those whose results lie in --pages, `pages` writes these anew from
their JSON without running anything. Runs lie under --out; what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import consensus_figure, report
from benchmarks.thesis import pages, plots, pretend, recipe, work
from benchmarks.thesis.recipe import SCALES, Recipe

Found = dict[str, Any]


def find(name: str, scale: str, place: work.Workplace, picture: Path) -> Found:
    """Run a recipe at a scale, draw it, and give what was found."""
    wanted = recipe.read(name)
    found: Found = {"recipe": name, "scale": scale, "machine": report.machine()}
    began = time.perf_counter()
    if wanted.shows == "simulation":
        options = wanted.job | wanted.scales[scale].change  # type: ignore[index]
        found["rows"] = [{"figures": consensus_figure.figure(picture, **options)}]
    else:
        found["rows"] = work.run(recipe.tasks(wanted, scale), wanted.measure, place)
        plots.draw(wanted, found, picture)
    report.progress(f"{name}: {time.perf_counter() - began:.0f} s")
    return found


def write(name: str, found: Found, folder: Path) -> None:
    """Results as JSON and as a page."""
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / f"{name}.md").write_text(pages.render(name, recipe.read(name), found))


def kept(folder: Path) -> list[tuple[str, Recipe, Found]]:
    """The results in a folder."""
    names = [path.stem for path in sorted(folder.glob("*.json"))]
    return [(name, recipe.read(name), json.loads((folder / f"{name}.json").read_text())) for name in names]


def rewrite(folder: Path) -> None:
    """Pages, pictures and index of a folder from its JSON; a simulation's picture is drawn when it is run only."""
    for name, wanted, found in kept(folder):
        write(name, found, folder)
        if wanted.shows != "simulation":
            plots.draw(wanted, found, folder / f"{name}.png")
    (folder / "README.md").write_text(pages.index(kept(folder)))


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.thesis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of recipes; or all, kept, pages")
    parser.add_argument("--scale", choices=SCALES, default="cpu", help="smoke: on pretended data (%(default)s)")
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="files of the data sets")
    parser.add_argument("--backgrounds", type=Path, metavar="DIR|FILE.npz", help="natural images for MNIST-M")
    parser.add_argument("--out", type=Path, default=Path("runs/thesis"), metavar="DIR", help="%(default)s")
    parser.add_argument("--pages", type=Path, metavar="DIR", help="write JSON, PNG and pages there, beside --out")
    given = parser.parse_args(arguments)
    if not given.names:
        for name in recipe.names():
            print(f"{name:<22}{recipe.read(name).title}")
        return
    folder = given.pages or given.out / given.scale
    folder.mkdir(parents=True, exist_ok=True)
    if given.names == ["pages"]:
        rewrite(folder)
        return
    names = given.names
    if names == ["all"]:
        names = recipe.names()
    elif names == ["kept"]:
        names = [name for name, _, _ in kept(folder)]
    root = pretend.write(given.out / "pretended") if given.scale == "smoke" else given.data_root
    for name in names:
        runs = given.out / given.scale / (recipe.read(name).runs_of or name)
        runs.mkdir(parents=True, exist_ok=True)
        write(
            name, find(name, given.scale, work.Workplace(runs, root, given.backgrounds), folder / f"{name}.png"), folder
        )
    (folder / "README.md").write_text(pages.index(kept(folder)))


if __name__ == "__main__":
    try:
        report.run(main)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"benchmarks.thesis: {error}")
