"""The papers' figures and tables, run with this project: each becomes NAME.json, NAME.png and the page NAME.md.

NAME is a recipe's; `list` shows them all, and so does no name. `all` runs every recipe; `kept` runs those again whose
results lie in --pages; `pages` writes pages and pictures there anew from their JSON and runs nothing.

What is trained already is not trained again, and what was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import consensus_figure, report
from benchmarks.thesis import pages, plots, pretend, recipe, work
from benchmarks.thesis.recipe import SCALES, Recipe
from launch.arguments import Parser

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results"

_EXAMPLES = """examples:
  python -m benchmarks.thesis figure_2_4 table_3_1 --data-root DIR
  python -m benchmarks.thesis all --scale smoke --out /tmp/thesis

exit codes: 0, all was made; 1, something was skipped or failed; 2, the command line is wrong."""

Found = dict[str, Any]


def find(name: str, scale: str, place: work.Workplace, picture: Path) -> Found:
    """Run a recipe at a scale, draw it, and give what was found.

    Raises:
        MissingDataError: files of its data are missing or damaged.
        RuntimeError: a run failed.
    """
    wanted = recipe.read(name)
    found: Found = {"recipe": name, "scale": scale}
    began = time.perf_counter()
    if wanted.shows == "simulation":
        options = wanted.job | wanted.scales[scale].change  # type: ignore[index]
        machine = report.machine()
        figures = consensus_figure.figure(picture, **options, title=wanted.source)
        found["rows"] = [{"machines": [machine], "figures": figures}]
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
    """The results in a folder.

    Raises:
        ValueError: there is a JSON of something else.
    """
    found = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    return [(name, recipe.read(name), one) for name, one in found.items()]


def _read(path: Path) -> Found:
    with contextlib.suppress(ValueError, TypeError):
        found: Found = json.loads(path.read_text())
        if path.stem in recipe.names() and {"scale", "rows"} <= set(found):
            return found
    raise ValueError(f"--pages: got {path}, expected a folder without JSON but that of this command")


def rewrite(folder: Path) -> None:
    """Pages, pictures and index of a folder from its JSON; a simulation's picture is drawn when it is run only."""
    for name, wanted, found in kept(folder):
        write(name, found, folder)
        if wanted.shows != "simulation":
            plots.draw(wanted, found, folder / f"{name}.png")
    (folder / "README.md").write_text(pages.index(kept(folder)))


def make(wanted: Sequence[tuple[str, str]], given: argparse.Namespace, folder: Path) -> bool:
    """Run recipes at their scales, whatever becomes of those before, and write results and index.

    Returns:
        Whether all were made.
    """
    pretended = pretend.write(given.out / "pretended") if any(scale == "smoke" for _, scale in wanted) else None
    whole = True
    for name, scale in wanted:
        runs = given.out / scale / (recipe.read(name).runs_of or name)
        runs.mkdir(parents=True, exist_ok=True)
        known = (pretended, None) if pretended and scale == "smoke" else (given.data_root, given.backgrounds)
        place = work.Workplace(runs, *known)
        try:
            write(name, find(name, scale, place, folder / f"{name}.png"), folder)
        except (work.MissingDataError, RuntimeError) as error:
            what = "is skipped" if isinstance(error, work.MissingDataError) else "failed"
            report.progress(f"{name} {what}: {error}")
            whole = False
    (folder / "README.md").write_text(pages.index(kept(folder)))
    return whole


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: with the exit codes that `--help` names, where not all was made.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    word = given.names[0].lower() if len(given.names) == 1 else "list" if not given.names else ""
    if word == "list":
        for name in recipe.names():
            print(f"{name:<22}{recipe.read(name).title}")
        return
    folder = given.pages or (RESULTS if word in ("kept", "pages") else given.out / (given.scale or "cpu"))
    try:
        there = kept(folder)  # what else lies there would be met after hours of training
        scales = {}
        if word in ("kept", "pages"):
            scales = {name: given.scale or found["scale"] for name, _, found in there}
            if not scales:
                raise ValueError(
                    f"--pages: got {folder}, where no results are kept; expected a folder with a NAME.json"
                )
        names = recipe.names() if word == "all" else list(scales) or given.names
        for name in names:
            recipe.read(name)
        for place in (given.out, folder):
            place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.exit(2, f"{parser.prog}: got {error.filename}, expected a folder that can be made: {error.strerror}\n")
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if word == "pages":
        rewrite(folder)
    elif not make([(name, scales.get(name, given.scale or "cpu")) for name in names], given, folder):
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m benchmarks.thesis",
        description=__doc__,
        epilog=_EXAMPLES,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a recipe's name; or list, all, kept or pages alone")
    parser.add_argument(
        "--scale",
        choices=SCALES,
        help="how much is run: smoke, a few steps on small made-up data, within a minute; cpu, less data and fewer"
        " steps than in the paper, at most 15 minutes on two cores; paper, all of it, for GPUs (default: cpu; with"
        " kept, the scale of what is kept)",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder with the published files of the data sets (default: %(default)s)",
    )
    parser.add_argument(
        "--backgrounds",
        type=Path,
        metavar="IMAGES",
        help="natural images that MNIST-M lays its digits on: a folder, or an .npz with an array images"
        " (default: backgrounds.npz in the folder of --data-root)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/thesis"),
        metavar="DIR",
        help="folder in which runs are trained and kept, to be gone on with (default: %(default)s)",
    )
    parser.add_argument(
        "--pages",
        type=Path,
        metavar="DIR",
        help="folder for JSON, pictures and pages (default: that of --out, a folder for each scale;"
        " with kept and pages docs/results)",
    )
    return parser


if __name__ == "__main__":
    report.run(main)
