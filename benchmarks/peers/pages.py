"""What was measured, as one table a scenario and model, and the rows of which this project claims to be first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import report
from benchmarks.peers.table import BY_NAME, Row
from benchmarks.report import Bar, Spread, grid, spread, table

PLAIN, SLOW, KILLED = "plain", "slow", "killed"
SCENARIOS = {
    PLAIN: "all workers alike",
    SLOW: "a step of the last worker takes five times as long",
    KILLED: "the last worker is killed in the middle (SIGKILL)",
}

Runs = list[dict[str, Any]]
"""One of `figures.figures` a round."""
Measure = Callable[[Runs], Spread | None]


def _of(name: str) -> Measure:
    """A figure, if every round came to it."""

    def measure(runs: Runs) -> Spread | None:
        found = [run[name] for run in runs if run.get(name) is not None]
        return spread(found) if found and len(found) == len(runs) else None

    return measure


def step_over_none(runs: Runs) -> Spread | None:
    """A step with the engine over one without exchange, by the same worker in turns."""
    found = [engine / plain for run in runs for plain, engine in run.get("turns", [])]
    return spread(found) if found else None


STEP, SAMPLES, TARGET, GAP, KEPT = (
    "step over none",
    "samples/s",
    "s to the target",
    "longest gap, s",
    "samples/s kept",
)
SCALE: dict[str, tuple[Measure, int, str]] = {
    STEP: (step_over_none, 3, "<="),
    SAMPLES: (_of("samples_per_s"), 0, ">="),
    TARGET: (_of("target_s"), 2, "<="),
    GAP: (_of("longest_gap_s"), 3, "<="),
    KEPT: (_of("kept"), 3, ">="),
}
COLUMNS = {PLAIN: [STEP, SAMPLES, TARGET], SLOW: [SAMPLES, KEPT, TARGET], KILLED: [GAP, TARGET]}
CLAIMS = {
    PLAIN: [STEP, SAMPLES],
    SLOW: [SAMPLES, TARGET],
    KILLED: [GAP, TARGET],
}
"""Columns in which `gosgd` is claimed to be ahead of every library; `none` exchanges nothing and stands outside."""


def show(scenario: str, model: str, found: dict[str, Runs], skipped: dict[str, str]) -> str:
    """A scenario's table for one model."""
    rounds = max((len(runs) for runs in found.values()), default=0)
    return f"{model}, {SCENARIOS[scenario]}; {rounds} rounds\n{table(*lines(scenario, found, skipped))}"


def lines(scenario: str, found: dict[str, Runs], skipped: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a scenario's table."""
    columns = COLUMNS[scenario]
    header = ["engine", *columns, "met a step", "outcome"]
    rows = []
    for name, runs in found.items():
        cells = [_cell(column, runs) for column in columns]
        met = _of("met_per_step")(runs)
        outcomes = [run["outcome"] for run in runs]
        told = " / ".join(f"{outcome} ({outcomes.count(outcome)})" for outcome in dict.fromkeys(outcomes))
        rows.append([BY_NAME[name].described, *cells, "" if met is None else f"{met.median:.3f}", told])
    rows += [[BY_NAME[name].described, *["" for _ in columns], "", "skipped"] for name in skipped]
    return header, rows


def filled(page: str, document: dict[str, Any]) -> str:
    """A page of documentation with its tables, named `SCENARIO MODEL`, from a JSON.

    Args:
        document: as the benchmark writes it.
    """
    found = document["results"]

    def shown(name: str) -> str:
        scenario, model = name.split()
        runs = found["runs"][scenario][model]
        header, rows = lines(scenario, runs, found["skipped"])
        claims = [f"{bar.what.partition(': ')[2]}: {_ratio(bar)}" for bar in bars(scenario, model, runs)]
        rounds = max(map(len, runs.values()))
        told = f"{rounds} rounds. " + (f"Claimed, as a ratio: {'; '.join(claims)}." if claims else "")
        return f"{grid(header, rows)}\n\n{told.strip()}"

    return report.filled(page, shown)


def _ratio(bar: Bar) -> str:
    return "not in every round" if bar.measured is None else f"{bar.measured:.2f}"


def _cell(column: str, runs: Runs) -> str:
    measure, digits, _ = SCALE[column]
    value = measure(runs)
    return "-" if value is None else value.text(digits)


def bars(scenario: str, model: str, found: dict[str, Runs]) -> list[Bar]:
    """For each claim, `gosgd` over the best library: at most 1, or at least 1, where it is the first."""
    if "gosgd" not in found:
        return []
    made = []
    for column in CLAIMS[scenario]:
        measure, _, sense = SCALE[column]
        best = min if sense == "<=" else max
        others = {
            name: value.median
            for name, runs in found.items()
            if not _ours(name) and (value := measure(runs)) is not None
        }
        if not others:
            continue
        own = measure(found["gosgd"])
        name = best(others, key=lambda name: others[name])
        what = f"{model}, {scenario}: {column}, gosgd over the best library ({BY_NAME[name].described})"
        made.append(Bar(what, sense, 1.0, None if own is None else own.median / others[name]))
    return made


def _ours(name: str) -> bool:
    row: Row = BY_NAME[name]
    return row.ours


def keep_of(slowed: Runs, plain: Runs) -> None:
    """Note beside each slowed run what it kept of the samples a second of the same round's undisturbed one."""
    usual = [run.get("samples_per_s") for run in plain]
    for run, before in zip(slowed, usual, strict=False):
        if run.get("samples_per_s") and before:
            run["kept"] = run["samples_per_s"] / before


def reasons(found: dict[str, dict[str, dict[str, Runs]]], skipped: dict[str, str]) -> str:
    """Why engines were skipped, and what those said that did not go on."""
    lines = [f"skipped: {BY_NAME[name].described}: {reason}" for name, reason in skipped.items()]
    for scenario, models in found.items():
        for model, engines in models.items():
            for name, runs in engines.items():
                told = dict.fromkeys(f"{run['outcome']}: {run['said']}" for run in runs if run["said"])
                lines += [f"{scenario}, {model}, {BY_NAME[name].described} {one}" for one in told]
    return "\n".join(lines)
