"""What a run directory tells, read for `gosgd report`. Imports configs.errors and trainers.run_directory.

A run may still be going on: lines that are cut off and files that are not there yet are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainers.run_directory import RunDirectory

Line = dict[str, Any]
FAULTS = ("failure", "restart", "restart_all", "leave")


@dataclass(frozen=True)
class Told:
    """One run.

    Attributes:
        name: what the page calls it; different for every run of a page.
        path: of its directory.
        config: the resolved configuration, by dotted key.
        environment: env.json.
        evaluations: of the consensus model, in the order of time.
        workers: lines of each worker's metrics.
        events: failures, restarts, departures.
        summary: of the final model, or None before the end.
        began: when training began, on the clock of `time.time`.
    """

    name: str
    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    evaluations: list[Line]
    workers: dict[int, list[Line]]
    events: list[Line]
    summary: Line | None
    began: float

    @property
    def method(self) -> str:
        """Of the exchange."""
        return str(self.config.get("exchange.method", "?"))

    @property
    def elapsed(self) -> float:
        """Seconds from the beginning of training to the last line."""
        return float(max(told[-1]["time"] for told in self.workers.values()) - self.began)

    @property
    def pace(self) -> float | None:
        """Samples a second of all workers; unknown before the end, and for a run that was resumed."""
        steps = (self.summary or {}).get("steps_total")
        if steps is None or self.environment.get("job") or not self.elapsed:
            return None
        return float(steps * self.batch / self.elapsed)

    @property
    def batch(self) -> int:
        """Samples in a local step."""
        return int(self.config.get("data.batch_size", 1) * self.config.get("train.grad_accum_steps", 1))

    def seconds(self, lines: Iterable[Line]) -> list[float]:
        """When lines were written, since training began."""
        return [line["time"] - self.began for line in lines]


def read_all(paths: Sequence[Path]) -> list[Told]:
    """The runs, with names that differ.

    Raises:
        ValueError: one is no run directory, or has nothing to show yet.
    """
    found = [path.resolve() for path in paths]
    if len(set(found)) < len(found):
        raise ValueError("got the same RUN_DIR twice, expected different ones")
    names = [path.name for path in found]
    return [
        _read(path, shown if names.count(resolved.name) > 1 else resolved.name)
        for path, resolved, shown in zip(paths, found, map(str, paths), strict=True)
    ]


def _read(path: Path, name: str) -> Told:
    directory = RunDirectory(path)
    if not directory.resolved.is_file():
        raise ValueError(f"got {path} without {directory.resolved.name}, expected a run directory")
    try:
        config = flat(yaml.safe_load(directory.resolved.read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{directory.resolved}: cannot be read: {error}") from None
    folders = sorted((path / "workers").glob("*"), key=lambda folder: (len(folder.name), folder.name))
    workers = {int(folder.name): lines(folder / "metrics.jsonl") for folder in folders if folder.name.isdecimal()}
    workers = {seat: told for seat, told in workers.items() if told}
    if not workers:
        raise ValueError(f"got {path}, which has no metrics yet; expected a run with at least one line of them")
    events = [line for line in lines(path / "events.jsonl") if line.get("event") in FAULTS]
    return Told(
        name=name,
        path=path,
        config=config,
        environment=_object(path / "env.json") or {},
        evaluations=lines(directory.metrics),
        workers=workers,
        events=events,
        summary=_object(directory.summary),
        began=min(_beginning(told[0], config) for told in workers.values()),
    )


def _beginning(first: Line, config: dict[str, Any]) -> float:
    """When the first line's interval began: it tells how many samples a second its worker took."""
    rate, every = first.get("samples_per_second"), config.get("run.log_every", 1)
    samples = config.get("data.batch_size", 1) * config.get("train.grad_accum_steps", 1) * min(first["step"], every)
    return float(first["time"] - (samples / rate if rate else 0.0))


def lines(path: Path) -> list[Line]:
    """The objects of a file of JSON lines that have a time; what is cut off or damaged is left out."""
    found = []
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict) and isinstance(one.get("time"), int | float):
            found.append(one)
    return sorted(found, key=lambda one: one["time"])


def _object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted key; lists of mappings are numbered."""
    if isinstance(config, list) and any(isinstance(one, dict) for one in config):
        config = dict(enumerate(config))
    if not isinstance(config, dict) or not config:
        return {prefix.removesuffix("."): config}
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.")
    return found


def differences(runs: Sequence[Told]) -> dict[str, list[Any]]:
    """Keys whose values are not the same in all runs; `run.dir` and `name` say nothing about the training."""
    everything = list(dict.fromkeys(name for one in runs for name in one.config))
    found = {
        name: [one.config.get(name, "-") for one in runs] for name in everything if name not in ("run.dir", "name")
    }
    return {name: values for name, values in found.items() if any(value != values[0] for value in values[1:])}
