"""A recipe: one figure or table of a paper as a job and what is varied in it. Imports configs.

A job is what `gosgd train` takes; rows, arms and scales are changes of it. A change of a section that names another
component (`name`, `method`) replaces the section, any other is laid over it key by key.
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
SCALES = ("smoke", "cpu", "paper")

Settings = dict[str, Any]
Scale = Literal["smoke", "cpu", "paper"]


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


class Recipe(Config):
    """One figure or table.

    Attributes:
        title: what is shown.
        source: paper, number and section.
        claim: what the paper says of it.
        shows: the form: `curves` of points while training, `table` of rows and arms, `lines` of arms over the
            rows' numbers, `densities` of neurons.
        measure: of one run, see measures.
        unit: of the measure.
        better: whether `high` or `low` values are wanted.
        panels: of curves: what is drawn over what.
        across: what rows differ in.
        job: at the paper's size.
        rows, arms: changes of the job by name.
        control: the arm that others are compared with, paired by seed.
        paper: the paper's figures, by row and arm.
        runs_of: the recipe with the same runs, which are not made twice.
        scales: how much is run.
        text: what agrees with the paper at the scale `cpu`, what does not, and why that may be.
    """

    title: str
    source: str
    claim: str
    shows: Literal["curves", "table", "lines", "densities", "simulation"]
    measure: str = "accuracy"
    unit: str = "%"
    better: Literal["high", "low"] = "high"
    panels: list[tuple[str, str]] = Field(default_factory=list)
    across: str = ""
    job: Settings = Field(default_factory=dict)
    rows: dict[str, Settings] = Field(default_factory=lambda: {"": {}})
    arms: dict[str, Settings] = Field(default_factory=lambda: {"": {}})
    control: str | None = None
    paper: dict[str, dict[str, float]] = Field(default_factory=dict)
    runs_of: str | None = None
    scales: dict[Scale, Extent]
    text: str = ""


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
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"got recipe {name!r}, expected one of {', '.join(names())}")
    # Not strict: YAML has lists where a panel is a pair.
    return Recipe.model_validate(yaml.safe_load(path.read_text()), strict=False)


def merged(base: Settings, change: Settings) -> Settings:
    """`base` with a change laid over it."""
    found = dict(base)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in change:
            found.pop(other, None)
    for key, value in change.items():
        own = found.get(key)
        both = isinstance(value, dict) and isinstance(own, dict)
        same = both and all(word not in value or value[word] == own.get(word) for word in _KINDS)
        found[key] = merged(own, value) if same else value
    return found


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
