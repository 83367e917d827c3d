"""What a job under faults did, beside the same job undisturbed: pure figures from what was seen and written down.

Imports launch.disturber and trainers.run_directory.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.disturber import Disturber, Look, Recovery
from trainers.run_directory import RunDirectory

_MARGIN_S = 0.5


@dataclass(frozen=True)
class Told:
    """One run, as its companion saw it and as its files tell.

    Attributes:
        workers: M.
        began: when every worker had made its first step, on the clock of `time.time`.
        looks: at the job.
        events, recoveries, down: see Disturber.
        waits: (worker, from, to, milliseconds): the longest exchange in each line of each worker's metrics.
        ledgers: whether the books balanced, at every evaluation; empty for methods without mass.
        summary: of the final model.
    """

    workers: int
    began: float
    looks: list[Look]
    events: list[dict[str, Any]]
    recoveries: list[Recovery]
    down: list[tuple[int, float, float]]
    waits: list[tuple[int, float, float, float]]
    ledgers: list[bool]
    summary: dict[str, Any]

    @classmethod
    def of(cls, directory: RunDirectory, companion: Disturber, workers: int) -> Told:
        """Gather it after the run's end."""
        summary = directory.read_summary()
        assert summary is not None and companion.began is not None
        waits = []
        for worker in range(workers):
            lines = _lines(directory.path / "workers" / str(worker) / "metrics.jsonl")
            before = companion.began
            for line in lines:
                waits.append((worker, before, line["time"], line["exchange"]["longest_ms"]))
                before = line["time"]
        ledgers = [line["ledger"]["balanced"] for line in _lines(directory.metrics) if line.get("ledger")]
        return cls(
            workers,
            companion.began,
            companion.looks,
            companion.events,
            companion.recoveries,
            companion.down,
            waits,
            ledgers,
            summary,
        )

    def window(self) -> float:
        """Seconds from the start of training until the first worker had made all its steps."""
        ended = [look.time for look in self.looks if look.finished] or [self.looks[-1].time]
        return ended[0] - self.began

    def steps_within(self, seconds: float) -> float:
        """Local steps of all workers within so many seconds of the start, between two looks in proportion."""
        return self._steps_at(self.began + seconds) - self._steps_at(self.began)

    def _steps_at(self, when: float) -> float:
        earlier = [look for look in self.looks if look.time <= when]
        later = [look for look in self.looks if look.time > when]
        if not earlier:
            return float(self.looks[0].steps)
        if not later:
            return float(earlier[-1].steps)
        a, b = earlier[-1], later[0]
        return a.steps + (b.steps - a.steps) * (when - a.time) / (b.time - a.time)

    def downtime(self, seconds: float) -> float:
        """Worker-seconds within the window that a worker was dead, joining or stopped."""
        end = self.began + seconds
        return sum(max(0.0, min(to, end) - max(at, self.began)) for _, at, to in self.down)

    def longest_wait(self) -> float:
        """Milliseconds of the longest exchange of a worker that was neither stopped nor about to be killed then."""
        healthy = [
            wait
            for worker, at, to, wait in self.waits
            if not any(
                worker == seat and at - _MARGIN_S <= back and fell <= to + _MARGIN_S for seat, fell, back in self.down
            )
        ]
        return max(healthy, default=0.0)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def figures(undisturbed: Told, disturbed: Told) -> dict[str, Any]:
    """Throughput kept, longest wait, recovery, mass and accuracy.

    `kept` is steps made over steps made undisturbed within the same time; `kept_without_downtime` leaves the time
    out of account that victims were dead, joining or stopped themselves.
    """
    seconds = min(undisturbed.window(), disturbed.window())
    steps, wanted = disturbed.steps_within(seconds), undisturbed.steps_within(seconds)
    down = disturbed.downtime(seconds)
    kept = steps / max(wanted, 1e-9)
    alone = [one for one in disturbed.recoveries if not one.again]
    ledgers = disturbed.ledgers
    counts: dict[str, int] = {}
    for event in disturbed.events:
        counts[event["event"]] = counts.get(event["event"], 0) + 1
    return {
        "workers": disturbed.workers,
        "seconds": seconds,
        "faults": counts,
        "killed": len(disturbed.recoveries),
        "steps": steps,
        "steps_undisturbed": wanted,
        "kept": kept,
        "downtime_s": down,
        "kept_without_downtime": kept / (1 - down / (disturbed.workers * seconds)),
        "longest_wait_ms": disturbed.longest_wait(),
        "longest_wait_undisturbed_ms": undisturbed.longest_wait(),
        "recovery_s": _spread(one.training - one.killed for one in alone if one.training is not None),
        "up_to_training_s": _spread(
            one.training - one.up for one in alone if one.training is not None and one.up is not None
        ),
        "not_recovered": sum(one.training is None for one in alone),
        "ledger_audits": len(ledgers),
        "ledger_balanced": all(ledgers) if ledgers else None,
        "mass_total": disturbed.summary["mass_total"],
        "mass_lost": disturbed.summary["mass_lost"],
        "accuracy": disturbed.summary["accuracy"],
        "accuracy_undisturbed": undisturbed.summary["accuracy"],
        "consensus_error": disturbed.summary["consensus_error"],
    }


def _spread(values: Iterable[float]) -> dict[str, float] | None:
    found: Sequence[float] = sorted(values)
    return {"median": statistics.median(found), "max": found[-1]} if found else None


def report(found: dict[str, Any], folder: Path) -> str:
    """The figures for a person."""

    def both(spread: dict[str, float] | None) -> str:
        return "-" if spread is None else f"median {spread['median']:.2f} s, longest {spread['max']:.2f} s"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    faults = ", ".join(f"{count} x {kind}" for kind, count in sorted(found["faults"].items()))
    mass = (
        "-"
        if found["mass_total"] is None
        else f"{found['mass_total']:.6f}, {found['mass_lost']:.6f} of it lost with its holders;"
        f" balanced in {'NOT ALL' if found['ledger_balanced'] is False else 'all'} of {found['ledger_audits']} audits"
    )
    rows = [
        ("workers", str(found["workers"])),
        ("faults", f"{faults}; {found['killed']} processes killed"),
        ("compared over", f"{found['seconds']:.0f} s"),
        ("steps kept", f"{found['kept']:.2%} of {found['steps_undisturbed']:,.0f}"),
        ("  without downtime", f"{found['kept_without_downtime']:.2%} ({found['downtime_s']:.0f} worker-seconds)"),
        (
            "longest exchange",
            f"{found['longest_wait_ms']:.1f} ms of a healthy worker,"
            f" {found['longest_wait_undisturbed_ms']:.1f} ms undisturbed",
        ),
        ("recovery", both(found["recovery_s"]) + ", kill to first step"),
        ("  once up", both(found["up_to_training_s"])),
        ("not recovered", f"{found['not_recovered']} (killed at the end)"),
        ("mass", mass),
        ("accuracy", f"{percent(found['accuracy'])}, undisturbed {percent(found['accuracy_undisturbed'])}"),
        ("files", str(folder)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(["under faults", *(f"  {name:<{width}}  {value}" for name, value in rows)])
