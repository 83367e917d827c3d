"""A recipe: one figure or table of a paper as a job and what is varied in it. Imports configs.

A job is what `gosgd train` takes; rows, arms and scales are changes of it. A change of a section that names another
component (`name`, `method`) replaces the section, any other is laid over it key by key. So is a recipe over the one
that it names as `like`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field

from configs.base import Config

RECIPES = Path(__file__).parent / "recipes"
_KINDS = ("name", "method")
_OWN = ("title", "source", "claim", "paper", "reported", "text", "short", "runs_of", "like")
"""What a recipe says for itself, whatever it is like."""
SCALES = ("smoke", "cpu", "paper")

Settings = dict[str, Any]
Scale = Literal["smoke", "cpu", "paper"]


def _single() -> dict[str, Settings]:
    return {"": {}}


class Extent(Config):
    """How much of a recipe is run at one scale.

    Attributes:
        seeds: from 0; each is a run of every arm in every row.
        rows: their names; all by default.
        arms: their names; all by default.
        change: of the job, under the changes of row and arm.
        over: of the job, over the changes of row and arm.
        less: what is less than in the paper, in words.
    """

    seeds: int = Field(default=1, ge=1)
    rows: list[str] | None = None
    arms: list[str] | None = None
    change: Settings = Field(default_factory=dict)
    over: Settings = Field(default_factory=dict)
    less: str = ""


class Reported(Config):
    """Figures of the paper that are not of the recipe's measure.

    Attributes:
        what: they are.
        figures: by row and arm.
    """

    what: str
    figures: dict[str, dict[str, float]]


class Recipe(Config):
    """One figure or table.

    Attributes:
        title: what is shown.
        source: paper, number and section.
        claim: what the paper says of it.
        like: the recipe that this one is a change of, but for what it says in words and the paper's figures.
        shows: the form: `curves` of points while training, `table` of rows and arms, `lines` of arms over the
            rows' numbers, `densities` of neurons, `simulation` of the consensus error.
        measure: of one run, see measures.
        unit: of the measure.
        better: whether `high` or `low` values are wanted.
        panels: of curves: what is drawn over what.
        across: what rows differ in.
        job: at the paper's size.
        rows, arms: changes of the job by name.
        control: the arm that others are compared with, paired by seed.
        paper: the paper's figures, by row and arm.
        reported: what the paper counts otherwise; it stands in a table of its own.
        runs_of: the recipe with the same runs, which are not made twice.
        scales: how much is run.
        text: what agrees with the paper at the scale `cpu`, what does not, and why that may be.
        short: the same in some words.
    """

    title: str
    source: str
    claim: str
    like: str | None = None
    shows: Literal["curves", "table", "lines", "densities", "simulation"]
    measure: str = "accuracy"
    unit: str = "%"
    better: Literal["high", "low"] = "high"
    panels: list[tuple[str, str]] = Field(default_factory=list)
    across: str = ""
    job: Settings = Field(default_factory=dict)
    rows: dict[str, Settings] = Field(default_factory=_single)
    arms: dict[str, Settings] = Field(default_factory=_single)
    control: str | None = None
    paper: dict[str, dict[str, float]] = Field(default_factory=dict)
    reported: Reported | None = None
    runs_of: str | None = None
    scales: dict[Scale, Extent]
    text: str = ""
    short: str = ""

    @property
    def quantity(self) -> str:
        """What was measured, with its unit."""
        named = {"seconds": "seconds of 100 steps", "binary": f"accuracy, {self.unit}"}
        return named.get(self.measure, f"{self.measure}, {self.unit}")


class Task(NamedTuple):
    """One run of a recipe."""

    row: str
    arm: str
    seed: int
    settings: Settings
    workers: int

    @property
    def name(self) -> str:
        """For a folder."""
        words = "-".join(filter(None, (self.row, self.arm, str(self.seed))))
        return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in words)


def names() -> list[str]:
    """Of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ValueError: there is none, or it is not whole.
    """
    # Not strict: YAML has lists where a panel is a pair.
    return Recipe.model_validate(_written(name), strict=False)


def _written(name: str) -> Settings:
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"got recipe {name!r}, expected one of {', '.join(names())}")
    own: Settings = yaml.safe_load(path.read_text())
    if "like" not in own:
        return own
    return merged({key: value for key, value in _written(own["like"]).items() if key not in _OWN}, own)


def merged(base: Settings, change: Settings) -> Settings:
    """`base` with a change laid over it."""
    found = dict(base)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in change:
            found.pop(other, None)
    for key, value in change.items():
        own = found.get(key)
        laid_over = isinstance(value, dict) and isinstance(own, dict) and _of_one_kind(own, value)
        found[key] = merged(own or {}, value) if laid_over else value
    return found


def _of_one_kind(own: Settings, change: Settings) -> bool:
    return all(word not in change or change[word] == own.get(word) for word in _KINDS)


def tasks(recipe: Recipe, scale: str) -> Iterator[Task]:
    """All runs of a recipe at a scale; arms take turns, so that a drift of the machine meets all of them."""
    extent = recipe.scales[scale]  # type: ignore[index]
    for seed in range(extent.seeds):
        for row in extent.rows or recipe.rows:
            for arm in extent.arms or recipe.arms:
                settings: Settings = recipe.job
                for change in (extent.change, recipe.rows[row], recipe.arms[arm], extent.over):
                    settings = merged(settings, change)
                settings = settings | {"name": "thesis", "seed": seed}
                yield Task(row, arm, seed, settings, settings.get("run", {}).get("workers", 1))
