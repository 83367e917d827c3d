"""A recipe's results as Markdown: what the paper says, what was found, and what to think of it. Imports plots.

A page is made from the recipe and the JSON beside it alone, so that nobody edits a table by hand.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.report import grid
from benchmarks.thesis.plots import values
from benchmarks.thesis.recipe import Recipe, Reported

Found = dict[str, Any]

_DRAWN = (
    "The picture shows evaluations while training. By step, what is of held-out images stands at the newest step of the"
    " workers whose weights were averaged, a training loss at the step it was measured at. In the table, steps, seconds"
    " and training loss are those of the last evaluation; held-out loss and accuracy are the final model's."
)


def render(name: str, recipe: Recipe, found: Found) -> str:
    """The page of one recipe."""
    scale = found["scale"]
    extent = recipe.scales[scale]
    parts = [
        f"# {recipe.title}",
        f"{recipe.source}. {recipe.claim}",
        f"```\npython -m benchmarks.thesis {name} --scale {scale}{_places(recipe)}\n```",
        f"![{recipe.title}]({name}.png)",
        _FORMS[recipe.shows](recipe, found),
        f"Scale `{scale}`: {extent.less}" if extent.less else "",
        recipe.text.strip() if scale == "cpu" else "",
        f"{_measured(found)} All figures: [{name}.json]({name}.json).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _places(recipe: Recipe) -> str:
    data = [change.get("data", {}).get("name") for change in (recipe.job, *recipe.rows.values())]
    return (" --data-root DIR" if any(data) else "") + (" --backgrounds IMAGES" if "mnist_m" in data else "")


def _measured(found: Found) -> str:
    """The machine and its load when each run began; older files have those of the command that wrote them only."""
    rows = found["rows"]
    machines = sorted((one for row in rows for one in row.get("machines", ())), key=lambda one: one["started"])
    unknown = sum("machines" not in row for row in rows)
    if not machines:
        if "machine" not in found:
            return "What it was measured on was not recorded."
        load = found["machine"]["load_average"][0]
        return f"Measured on {_named(found['machine'])}; load {load:.1f} when the command began, not recorded later."
    loads = [one["load_average"][0] for one in machines]
    said = f"Measured on {' and '.join(dict.fromkeys(map(_named, machines)))}; load {loads[0]:.1f} at the start"
    if len(loads) > 1:
        said += f" of the first run, {max(loads):.1f} at most at that of any, where runs before it still count"
    return said + (f"; not recorded for {unknown} of {len(rows)} runs." if unknown else ".")


def _named(machine: Found) -> str:
    return f"{machine['cpus']} cores of an {machine['cpu']}, torch {machine['torch']}, one thread a worker"


def index(pages: Sequence[tuple[str, Recipe, Found]]) -> str:
    """The list of all pages."""
    lines = [
        f"| [{recipe.title}]({name}.md) | {recipe.source} | {recipe.short if found['scale'] == 'cpu' else ''} |"
        f" `{found['scale']}` |"
        for name, recipe, found in pages
    ]
    return "\n".join(
        [
            "# Results",
            "",
            "Figures and tables of [the papers](../README.md#sources), run with this project. Each page says what was",
            "less than in the paper (`cpu`: fewer steps, samples and seeds), what agrees with it and what does not.",
            "Made by `python -m benchmarks.thesis kept --data-root DIR --backgrounds IMAGES --pages docs/results`;",
            "`DIR` holds the published files of the data sets, `IMAGES` natural images (a folder, or an .npz with an",
            "array `images`). `python -m benchmarks.thesis list` names all recipes.",
            "",
            "| what | paper | in short | scale |",
            "| --- | --- | --- | --- |",
            *lines,
            "",
        ]
    )


def table(recipe: Recipe, found: Found) -> str:
    """Rows and arms: mean ± standard deviation over seeds, the paper's figure in brackets; gains over the control."""
    measured = values(found["rows"])
    names, arms = (list(dict.fromkeys(key[at] for key in measured)) for at in (0, 1))

    def cell(name: str, arm: str) -> str:
        own = spread(measured[name, arm], 1) if (name, arm) in measured else ""
        paper = recipe.paper.get(name, {}).get(arm)
        return own if paper is None else f"{own} ({paper:g})"

    rows = [[name, *(cell(name, arm) for arm in arms)] for name in names]
    parts = [_heading(recipe), grid([recipe.across, *(arm or recipe.measure for arm in arms)], rows)]
    if recipe.control in arms:
        others = [arm for arm in arms if arm != recipe.control]
        gains = [
            [name, *(_gain(recipe, measured, name, arm) if (name, arm) in measured else "" for arm in others)]
            for name in names
        ]
        parts += [f"Over {recipe.control}, paired by seed:", grid([recipe.across, *others], gains)]
    if recipe.reported is not None:
        parts += [f"{recipe.reported.what}:", _reported(recipe.across, recipe.reported)]
    return "\n\n".join(parts)


def _reported(across: str, reported: Reported) -> str:
    arms = list(dict.fromkeys(arm for figures in reported.figures.values() for arm in figures))
    rows = [[name, *(f"{figures[arm]:g}" for arm in arms)] for name, figures in reported.figures.items()]
    return grid([across, *arms], rows)


def _gain(recipe: Recipe, measured: dict[tuple[str, str], list[float]], name: str, arm: str) -> str:
    base = measured[name, str(recipe.control)]
    own = spread([one - other for one, other in zip(measured[name, arm], base, strict=False)], 1, "+")
    paper = recipe.paper.get(name, {})
    if arm not in paper or recipe.control not in paper:
        return own
    return f"{own} ({paper[arm] - paper[str(recipe.control)]:+.2f})"


def _heading(recipe: Recipe) -> str:
    wanted = {"high": "higher is better", "low": "lower is better"}[recipe.better]
    paper = ", in brackets the paper's" if recipe.paper else ""
    return f"{recipe.quantity[0].upper()}{recipe.quantity[1:]}, mean ± standard deviation over seeds ({wanted}){paper}."


def curves(recipe: Recipe, found: Found) -> str:
    """What each arm ended with, and what its points are."""
    rows = found["rows"]
    shown = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row["figures"] for row in rows if row["arm"] == arm]
        last = [one["points"][-1] for one in own]
        line = [
            arm,
            f"{last[0]['step']:,}",
            spread([one["seconds"] for one in last], 0),
            spread([one["training_loss"] for one in last if one["training_loss"] is not None], 3),
            spread([one["loss"] for one in own], 3),
            spread([one["accuracy"] for one in own], 1),
        ]
        if extra := [key for key in last[0] if key.endswith("_loss") and key not in ("training_loss", "test_loss")]:
            line += [spread([one[key] for one in last], 2) for key in extra]
        shown.append(line)
    header = ["", "steps", "seconds", "training loss", "held-out loss", "held-out accuracy, %"]
    header += [key.replace("_loss", " loss").upper().replace("LOSS", "loss") for key in extra]
    return f"{_DRAWN}\n\n{grid(header, shown)}"


def densities(recipe: Recipe, found: Found) -> str:
    """How far the modes are apart, and the error."""
    ordered = sorted(found["rows"], key=lambda row: row["figures"]["error"])
    rows = [[row["row"], f"{row['figures']['error']:.1f}", f"{row['figures']['separation']:.2f}"] for row in ordered]
    return grid(["network", "error, %", "separation of the modes (median over coordinates)"], rows)


def simulation(recipe: Recipe, found: Found) -> str:
    """Level and deviation of each curve."""
    (row,) = found["rows"]
    rows = [[arm, f"{one['level']:.4g}", f"{one['deviation_in_time']:.3g}"] for arm, one in row["figures"].items()]
    return "Consensus error a dimension.\n\n" + grid(["", "level", "standard deviation in time"], rows)


def spread(found: Sequence[float], digits: int, sign: str = "") -> str:
    """`mean ± standard deviation`; the mean alone of a single value, nothing of none."""
    if not found:
        return ""
    mean = f"{statistics.fmean(found):{sign}.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ± {statistics.stdev(found):.{digits}f}"


_FORMS: dict[str, Callable[[Recipe, Found], str]] = {
    "curves": curves,
    "lines": table,
    "table": table,
    "densities": densities,
    "simulation": simulation,
}
