"""What each method costs at 10, 1,000 and 100,000 workers: a model fitted to the other benchmarks' results.

Without --measure nothing is timed: the tables of docs/scaling.md are computed from the files in benchmarks/results.
With it the model is first compared with simulations of up to a million workers (results/scaling.json).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import options, report
from benchmarks.hosts import RATES as HOST_RATES
from benchmarks.hosts import WIRES
from benchmarks.race import slower
from benchmarks.report import spread
from benchmarks.scaling_model import FULL, JITTER, Net, Rates, cost, most_rho, slowest
from gossip.costs import messages
from gossip.methods.base import MethodConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.persyn import PerSynConfig
from gossip.simulate import simulate
from gossip.world import World

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
SIZES = [10, 1_000, 100_000]
SIMULATED = [10, 1_000, 1_000_000]
ROUNDS = {0.1: 20, 0.4: 10}
PARAMETERS, STEP_S = 25_000_000, 0.2
_TAU = 100


NETS = [Net("data centre", 100e9 / 8, 10e-6), Net("internet", 100e6 / 8, 50e-3 / 2)]


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())["results"]


def _step(found: dict[str, Any], variant: str) -> float:
    return spread(value for row in found["variants"][variant]["step_s"] for value in row).median


class Row(NamedTuple):
    """A measured step beside the fitted one: bytes sent a step, seconds over no exchange."""

    what: str
    sent: float
    extra_s: float
    none_s: float


def _rows() -> dict[str, list[Row]]:
    """What was measured with as many workers as processors, by what it is fitted to."""
    found: dict[str, list[Row]] = {"gossip": [], "meeting": [], "gossip over hosts": [], "meeting over hosts": []}
    for name in ("exchange_7m.json", "exchange_25m.json"):
        for one in _read(name)["exchange"]:
            if one["workers"] != 2:
                continue
            none, size = _step(one, "none"), 4.0 * one["parameters"]
            for variant, lists in one["variants"].items():
                extra = _step(one, variant) - none
                label = f"{one['model']}, one host, {variant}"
                if variant.startswith("gossip "):
                    merged = statistics.fmean(value for row in lists["merged"] for value in row)
                    found["gossip"].append(Row(label, merged * size, extra, none))
                elif variant in ("ddp", "persyn"):
                    period = 10 if variant == "persyn" else 1
                    found["meeting"].append(Row(label, size / period, extra, none))
    one = _read("hosts.json")["cost"]
    none = _step(one, "none")
    for wire in WIRES:
        size = one["parameters"] * (4.0 if wire == "float32" else 2.0)
        for rate in HOST_RATES:
            lists = one["variants"][f"{wire} {rate}"]
            merged = statistics.fmean(value for row in lists["merged"] for value in row)
            extra = _step(one, f"{wire} {rate}") - none
            label = f"{one['model']}, two hosts, gossip {rate}, {wire}"
            found["gossip over hosts"].append(Row(label, merged * size, extra, none))
    ddp = Row(f"{one['model']}, two hosts, ddp", 4.0 * one["parameters"], _step(one, "ddp") - none, none)
    found["meeting over hosts"].append(ddp)
    return found


def _fit(rows: Sequence[Row]) -> float:
    """Seconds a byte, through the origin, every row weighted by its own size: the mean of extra / sent."""
    return statistics.median(row.extra_s / row.sent for row in rows)


def fitted() -> dict[str, float]:
    """Seconds a byte for what `_rows` has."""
    return {name: _fit(rows) for name, rows in _rows().items()}


def fit_table() -> str:
    """Fitted and measured step over none."""
    rates, lines = fitted(), []
    for name, rows in _rows().items():
        for row in rows:
            made = 1 + rates[name] * row.sent / row.none_s
            measured = 1 + row.extra_s / row.none_s
            nanoseconds = f"{1e9 * rates[name]:.2f}"
            lines.append([row.what, f"{row.sent / 1e6:.1f}", nanoseconds, f"{made:.2f}", f"{measured:.2f}"])
    return report.grid(["measured", "MB sent a step", "fitted ns a byte", "model: step over none", "measured"], lines)


def link_table() -> str:
    """A step over the slow link of benchmarks.hosts, modelled and measured."""
    found, rates = _read("hosts.json"), fitted()
    race, none = found["race"], _step(found["cost"], "none")
    net = Net("shaped", race["mbits_per_s"] * 1e6 / 8, race["delay_ms"] / 1e3)
    size = 4.0 * found["cost"]["parameters"]
    own = Rates(rates["gossip over hosts"], rates["meeting over hosts"])
    configs: dict[str, tuple[MethodConfig, float]] = {
        "gossip": (GoSGDConfig(rho=0.1), size),
        "gossip, bfloat16": (GoSGDConfig(rho=0.1, wire_dtype="bfloat16"), size / 2),
        "persyn": (PerSynConfig(tau=10), size),
        "ddp": (FullySyncConfig(), size),
    }
    lines = []
    for method, runs in race["methods"].items():
        seconds, steps = zip(*(slower(made) for made in runs), strict=True)
        measured = statistics.median(one / count for one, count in zip(seconds, steps, strict=True))
        config, sent = configs[method]
        made = none * cost(config, 2, sent, none, net, own).over(none)
        missed = sum(one["seconds"] is None for made in runs for one in made)
        reached = "not reached" if missed else f"{spread(seconds).median:.1f}"
        lines.append([method, f"{1e3 * made:.0f}", f"{1e3 * measured:.0f}", f"{measured / made:.2f}", reached])
    header = ["method", "model: ms a step", "measured", "measured over model"]
    return report.grid([*header, f"seconds until the loss is {race['target']:g}"], lines)


def measure() -> dict[str, Any]:
    """Messages, disagreement and waits in simulations."""
    found: dict[str, Any] = {"gossip": []}
    for rho, rounds in ROUNDS.items():
        for workers in SIMULATED:
            repeats = max(1, min(2_000, 20_000 // workers))
            world = World(workers, 1, rounds, repeats=repeats, delivery="queued")
            result = simulate(GoSGDConfig(rho=rho), world, [rounds - 1])
            error = float(result.errors.mean()) / (workers - 1)
            found["gossip"].append(
                {"rho": rho, "workers": workers, "rounds": rounds, "messages": result.messages, "error": error}
            )
            report.progress(str(found["gossip"][-1]))
    found["slowest"] = late()
    return found


def late() -> list[dict[str, float]]:
    """How late the slowest worker is when steps take normally distributed times."""
    chance, found = np.random.default_rng(0), []
    for workers in SIMULATED:
        latest = [float(chance.normal(1, JITTER, workers).max()) for _ in range(max(20, 2_000_000 // workers))]
        found.append({"workers": workers, "late": statistics.fmean(latest) - 1})
    return found


def simulated_table() -> str:
    """Simulations beside the model."""
    found = _read("scaling.json")
    lines = []
    for one, wait in zip(found["gossip"], found["slowest"] * len(ROUNDS), strict=True):
        model = messages(GoSGDConfig(rho=one["rho"]), one["workers"])
        lines.append(
            [
                f"{one['workers']:,}",
                f"{one['rho']:g}",
                f"{model:.3f}",
                f"{one['messages']:.3f}",
                f"{one['error']:.1f}",
                str(one["rounds"]),
                f"{slowest(one['workers']):.3f}",
                f"{wait['late']:.3f}",
            ]
        )
    header = ["workers", "rho", "messages a step: model", "simulated", "disagreement", "after steps"]
    return report.grid([*header, "slowest late by: model", "simulated"], lines)


def methods(net: Net, rates: Rates) -> list[tuple[str, MethodConfig, float]]:
    """What is read off: name, options, bytes of a vector."""
    whole, half = 4.0 * PARAMETERS, 2.0 * PARAMETERS
    most, rounded = (most_rho(size, STEP_S, net, rates) for size in (whole, half))
    return [
        ("fully_sync", FullySyncConfig(), whole),
        (f"persyn, tau={_TAU}", PerSynConfig(tau=_TAU), whole),
        (f"easgd, tau={_TAU}", EASGDConfig(tau=_TAU, beta=0.8), whole),
        (f"gosgd, rho={1 / _TAU:g}", GoSGDConfig(rho=1 / _TAU), whole),
        (f"gosgd, largest rho={most:.3g}", GoSGDConfig(rho=most), whole),
        (f"gosgd, bfloat16, largest rho={rounded:.3g}", GoSGDConfig(rho=rounded, wire_dtype="bfloat16"), half),
    ]


def costs_table(net: Net) -> str:
    """Costs at every size over one network."""
    found = fitted()
    rates = Rates(found["gossip over hosts"], found["meeting over hosts"])
    lines = []
    for name, config, size in methods(net, rates):
        made = [cost(config, workers, size, STEP_S, net, rates) for workers in SIZES]
        waits = [f"{1e3 * one.wait_s:,.0f}" if one.wait_s > 0.1 else f"{1e3 * one.wait_s:.1f}" for one in made]
        over = [f"{made[0].over(STEP_S):.2f}", f"{made[-1].over(STEP_S):.2f}"]
        last = made[-1]
        sent = [f"{last.messages:.3g}", f"{last.sent / 1e6:.3g}", f"{100 * made[0].load:.0f} %"]
        lines.append([name, *sent, f"{1e3 * last.work_s:.3g}", *waits, *over])
    header = ["method", "messages a step", "MB a step", "of the link", "work, ms"]
    header += [f"waiting, ms, {workers:,} workers" for workers in SIZES]
    return report.grid([*header, f"step over none, {SIZES[0]:,}", f"{SIZES[-1]:,}"], lines)


def assumptions_table() -> str:
    """What is put in by hand."""
    lines = [[net.name, f"{8 * net.bytes_per_s / 1e6:,.0f}", f"{2e3 * net.latency_s:g}"] for net in NETS]
    given = (
        f"A model of {PARAMETERS:,} parameters, {1e3 * STEP_S:g} ms a step without exchange, steps whose times vary by"
    )
    given += f" {100 * JITTER:g} %; gossip may take {100 * FULL:g} % of a worker's link."
    return report.grid(["network", "Mbit/s each way of a worker", "round trip, ms"], lines) + f"\n\n{given}"


TABLES: dict[str, Callable[[], str]] = {
    "fit": fit_table,
    "link": link_table,
    "simulated": simulated_table,
    "assumptions": assumptions_table,
    **{net.name: lambda net=net: costs_table(net) for net in NETS},  # type: ignore[misc]
}


def filled(page: str) -> str:
    """A page with its tables as they are computed now."""
    return report.filled(page, lambda name: TABLES[name]())


def main(arguments: list[str] | None = None) -> None:
    """Compute, print, and write where asked to."""
    parser = options.parser("scaling", __doc__)
    parser.add_argument("--measure", action="store_true", help="simulate first (some minutes)")
    parser.add_argument("--page", action="store_true", help="put the tables into docs/scaling.md")
    given = parser.parse_args(arguments)
    if given.measure:
        found = report.machine()
        report.finish(argparse.Namespace(**{**vars(given), "json": RESULTS / "scaling.json"}), found, measure(), [])
    for name, table in TABLES.items():
        print(f"\n{name}\n{table()}")
    if given.page:
        PAGE.write_text(filled(PAGE.read_text()))
    if given.json is not None:
        given.json.write_text(json.dumps({"seconds a byte": fitted()}, indent=1) + "\n")


if __name__ == "__main__":
    report.run(main)
