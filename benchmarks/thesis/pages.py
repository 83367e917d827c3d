"""A recipe's results as Markdown: what the paper says, what was found, and what to think of it. Pure text.

A page is made from the recipe and the JSON beside it alone, so that nobody edits a table by hand.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.thesis.plots import values
from benchmarks.thesis.recipe import Recipe

Found = dict[str, Any]


def render(name: str, recipe: Recipe, found: Found) -> str:
    """The page of one recipe."""
    scale = found["scale"]
    extent = recipe.scales[scale]
    machine = found["machine"]
    parts = [
        f"# {recipe.title}",
        f"{recipe.source}. {recipe.claim}",
        f"```\npython -m benchmarks.thesis {name} --scale {scale}\n```",
        f"![{recipe.title}]({name}.png)",
        _FORMS[recipe.shows](recipe, found),
        f"Scale `{scale}`: {extent.less}" if extent.less else "",
        recipe.text.strip() if scale == "cpu" else "",
        f"Measured on {machine['cpus']} cores of an {machine['cpu']}, torch {machine['torch']}, one thread a worker;"
        f" load at the start {machine['load_average'][0]:.1f}. All figures: [{name}.json]({name}.json).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def index(pages: Sequence[tuple[str, Recipe, Found]]) -> str:
    """The list of all pages."""
    lines = [f"| [{recipe.title}]({name}.md) | {recipe.source} | `{found['scale']}` |" for name, recipe, found in pages]
    return "\n".join(
        [
            "# Results",
            "",
            "The papers' figures and tables, run with this project; each page says what was less than in the paper.",
            "Made by `python -m benchmarks.thesis kept --scale cpu --data-root DIR --pages docs/results`.",
            "",
            "| what | paper | scale |",
            "| --- | --- | --- |",
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
    made = f"{_heading(recipe)}\n\n" + _grid([recipe.across or "", *(arm or recipe.measure for arm in arms)], rows)
    if recipe.control is None or recipe.control not in arms:
        return made
    others = [arm for arm in arms if arm != recipe.control]
    gains = [
        [name, *(_gain(recipe, measured, name, arm) if (name, arm) in measured else "" for arm in others)]
        for name in names
    ]
    header = [recipe.across or "", *others]
    return f"{made}\n\nOver {recipe.control}, paired by seed:\n\n{_grid(header, gains)}"


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
    measure = {"seconds": "Seconds of 100 steps", "binary": "Accuracy"}.get(recipe.measure, recipe.measure.capitalize())
    return f"{measure} in {recipe.unit}, mean ± standard deviation over seeds ({wanted}){paper}."


def curves(recipe: Recipe, found: Found) -> str:
    """What each arm ended with."""
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
    return _grid(header, shown)


def densities(recipe: Recipe, found: Found) -> str:
    """How far the modes are apart, and the error."""
    ordered = sorted(found["rows"], key=lambda row: row["figures"]["error"])
    rows = [[row["row"], f"{row['figures']['error']:.1f}", f"{row['figures']['separation']:.2f}"] for row in ordered]
    return _grid(["network", "error, %", "separation of the modes (median over coordinates)"], rows)


def simulation(recipe: Recipe, found: Found) -> str:
    """Level and deviation of each curve."""
    (row,) = found["rows"]
    rows = [[arm, f"{one['level']:.4g}", f"{one['deviation_in_time']:.3g}"] for arm, one in row["figures"].items()]
    return "Consensus error a dimension.\n\n" + _grid(["", "level", "standard deviation in time"], rows)


def spread(found: Sequence[float], digits: int, sign: str = "") -> str:
    """`mean ± standard deviation`; the mean alone of a single value, nothing of none."""
    if not found:
        return ""
    mean = f"{statistics.fmean(found):{sign}.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ± {statistics.stdev(found):.{digits}f}"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_FORMS: dict[str, Callable[[Recipe, Found], str]] = {
    "curves": curves,
    "lines": table,
    "table": table,
    "densities": densities,
    "simulation": simulation,
}
