"""How well each method holds a consensus for the messages it sends: the simulator's figures, and thesis figure 2.3.

GoSGD, with uniform and with adaptive peers (its chapter 6), beside PerSyn at the rates of the thesis (section 2.5.1)
under both clocks and both deliveries; all methods at equal messages per worker and step; a million workers in one
process. Imports gossip only.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

from benchmarks import consensus_figure, options, report
from benchmarks.consensus_figure import RATES, WORKERS
from benchmarks.report import Bar
from gossip import costs, theory
from gossip.methods.base import MethodConfig
from gossip.methods.downpour import DownpourConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.none import NoneConfig
from gossip.methods.persyn import PerSynConfig
from gossip.simulate import Result, compare, simulate
from gossip.virtual import PairwiseConfig
from gossip.world import Clock, DeliveryName, World

CLOCKS: tuple[Clock, ...] = ("round", "tick")
DELIVERIES: tuple[DeliveryName, ...] = ("instant", "queued")
MESSAGES = 0.2
"""Vectors per worker and step at which all methods are compared."""
_RELAXATION = 20  # times 1 / rho, until the level is stationary; the same again, twice, to average over


def levels(repeats: int, dimension: int, scale: float) -> list[dict[str, Any]]:
    """The stationary error of GoSGD, with uniform and adaptive peers, and PerSyn at each rate, clock and delivery.

    Args:
        repeats: independent runs.
        dimension: D; the coordinates of one run share its schedule.
        scale: shortens the runs.
    """
    found = []
    for rho in RATES:
        for clock in CLOCKS:
            # Divisible by every period of PerSyn here, so that it is averaged over whole ones.
            rounds = max(100, round(scale * _RELAXATION / rho / 100) * 100)
            for delivery in DELIVERIES:
                report.progress(f"levels: rho={rho:g}, {clock}, {delivery}")
                gossip = _level(GoSGDConfig(rho=rho), rounds, repeats, dimension, clock, delivery)
                # Each worker looks at all others in every step, and one run has less spread than of uniform peers.
                choosing = GoSGDConfig(rho=rho, peers="adaptive")
                adaptive = _level(choosing, rounds, max(10, repeats // 8), dimension, clock, delivery)
                if delivery == "instant":
                    meeting = _level(PerSynConfig(rho=rho), rounds, repeats, dimension, clock, delivery)
                exact = theory.stationary(PerSynConfig(rho=rho), WORKERS, clock)
                assert exact is not None
                found.append(
                    {
                        "rho": rho,
                        "clock": clock,
                        "delivery": delivery,
                        "rounds": 3 * rounds,
                        "gosgd": gossip,
                        "adaptive": adaptive,
                        "persyn": meeting,
                        "persyn_exact": exact.value,
                    }
                )
    return found


def _level(
    config: MethodConfig, rounds: int, repeats: int, dimension: int, clock: Clock, delivery: DeliveryName
) -> list[float]:
    """[mean, standard error] per dimension, over the last two thirds of 3 * `rounds` rounds."""
    per_round = WORKERS if clock == "tick" else 1
    first, steps = rounds * per_round, 3 * rounds * per_round
    world = World(WORKERS, dimension, steps, clock=clock, delivery=delivery, repeats=repeats, seed=1)
    value, sem = simulate(config, world, range(first + 1, steps + 1)).level()
    assert sem is not None
    return [value / dimension, sem / dimension]


def show_levels(found: list[dict[str, Any]]) -> list[Bar]:
    """Print the table and where the thesis' text differs; returns the bars."""
    print(f"\nstationary consensus error per dimension, M = {WORKERS}, updates N(0, 1)")
    rows = [
        [
            f"{one['rho']:g}",
            one["clock"],
            one["delivery"],
            "{:.2f} +- {:.2f}".format(*one["gosgd"]),
            "{:.2f} +- {:.2f}".format(*one["adaptive"]),
            f"{one['adaptive'][0] / one['gosgd'][0]:.3f}",
            "{:.3f} +- {:.3f}".format(*one["persyn"]),
            f"{one['persyn_exact']:.3f}",
            f"{one['gosgd'][0] / one['persyn_exact']:.2f}",
        ]
        for one in found
    ]
    header = [
        "rho",
        "clock",
        "delivery",
        "GoSGD",
        "adaptive",
        "over uniform",
        "PerSyn",
        "PerSyn exactly",
        "GoSGD / PerSyn",
    ]
    print(report.table(header, rows))
    at = {(one["rho"], one["clock"], one["delivery"]): one for one in found}
    high, low = at[0.4, "round", "instant"], at[0.01, "round", "instant"]
    worst = {rho: (WORKERS - 1) * since for rho, since in ((0.01, 99), (0.4, 2))}
    print(
        "\nwhat the thesis says, and what was computed (rounds, instant):"
        "\n- 2.5.1: at rho = 0.4 both are equivalent on average. Computed: GoSGD is"
        f" {high['gosgd'][0] / high['persyn_exact']:.1f} times as high."
        "\n- 2.5.1: at rho = 0.01 GoSGD is in the range of PerSyn's higher values. Computed: GoSGD"
        f" {low['gosgd'][0]:.0f}, PerSyn's highest {worst[0.01]}."
        "\n- appendix A: at rho = 0.4 GoSGD is between PerSyn's best and worst. Computed: GoSGD"
        f" {high['gosgd'][0]:.1f}, PerSyn's worst {worst[0.4]}."
        "\n- appendix A: on average GoSGD is above PerSyn. Computed: so it is, at every rate."
    )
    return [
        Bar("GoSGD, rho = 0.4, rounds, instant: error per dimension", "=", 28, high["gosgd"][0]),
        Bar("the same, queued", "=", 36, at[0.4, "round", "queued"]["gosgd"][0]),
    ]


def equal_messages() -> list[tuple[str, MethodConfig]]:
    """Every method at `MESSAGES` vectors per worker and step, or as near as whole periods allow."""
    meeting = 2 * (WORKERS - 1) / WORKERS
    return [
        ("gosgd", GoSGDConfig(rho=MESSAGES)),
        ("gosgd, adaptive", GoSGDConfig(rho=MESSAGES, peers="adaptive")),
        ("gosgd, ring", GoSGDConfig(rho=MESSAGES, peers="ring")),
        ("gosgd, exponential", GoSGDConfig(rho=MESSAGES, peers="exponential")),
        ("pairwise (symmetric)", PairwiseConfig(rho=MESSAGES / 2)),
        ("persyn", PerSynConfig(rho=round(MESSAGES / meeting, 4))),
        ("easgd, sync", EASGDConfig(tau=round(meeting / MESSAGES))),
        ("easgd, sync, before_gradient", EASGDConfig(tau=round(meeting / MESSAGES), order="before_gradient")),
        ("easgd, async", EASGDConfig(tau=round(2 / MESSAGES), mode="async")),
        ("downpour", DownpourConfig(n_fetch=round(2 / MESSAGES), n_push=round(2 / MESSAGES))),
        ("none", NoneConfig()),
        ("fully_sync", FullySyncConfig()),
    ]


def per_message(repeats: int, dimension: int, rounds: int) -> list[dict[str, Any]]:
    """The error of every method at equal messages, over the last half of a run, under both clocks."""
    methods = equal_messages()
    found: list[dict[str, Any]] = [{"method": name} for name, _ in methods]
    for clock in CLOCKS:
        report.progress(f"equal messages: {clock}")
        steps = rounds * (WORKERS if clock == "tick" else 1)
        world = World(WORKERS, dimension, steps, clock=clock, repeats=repeats, seed=2)
        stride = 1 if clock == "round" else 3
        results = compare([config for _, config in methods], world, range(steps // 2 + 1, steps + 1, stride))
        for one, (_, config), result in zip(found, methods, results, strict=True):
            level, sem = result.level()
            assert sem is not None
            exact = theory.expected(config, WORKERS, dimension, steps, clock)
            one |= {
                "messages": costs.messages(config, WORKERS),
                f"messages_counted_{clock}": result.messages,
                clock: [level / dimension, sem / dimension],
                f"{clock}_exact": None if exact is None else float(exact[result.steps - 1].mean() / dimension),
            }
    return found


def show_per_message(found: list[dict[str, Any]], rounds: int) -> None:
    """Print the table, the lowest error first."""
    print(f"\nall methods at {MESSAGES:g} vectors per worker and step, M = {WORKERS}, last half of {rounds} rounds")
    rows = []
    for one in sorted(found, key=lambda one: one["round"][0]):
        cells = [one["method"], f"{one['messages']:.3f}", f"{one['messages_counted_round']:.3f}"]
        for clock in CLOCKS:
            cells += [
                "{:.2f} +- {:.2f}".format(*one[clock]),
                "" if one[f"{clock}_exact"] is None else f"{one[f'{clock}_exact']:.2f}",
            ]
        rows.append(cells)
    print(report.table(["method", "messages", "counted", "rounds", "exactly", "ticks", "exactly"], rows))


def crowd(sizes: list[int], dimension: int, ticks: int) -> list[dict[str, Any]]:
    """Memory and time per event with more and more workers; GoSGD at rho = 0.1, both clocks and deliveries."""
    found = []
    for workers in sizes:
        for clock in CLOCKS:
            for delivery in DELIVERIES:
                report.progress(f"{workers:,} workers: {clock}, {delivery}")
                steps = ticks if clock == "tick" else max(2, ticks // workers)
                world = World(workers, dimension, steps, clock=clock, delivery=delivery, seed=3)
                began = time.perf_counter()
                result: Result = simulate(GoSGDConfig(rho=0.1), world, [steps])
                found.append(
                    {
                        "workers": workers,
                        "clock": clock,
                        "delivery": delivery,
                        "events": result.events,
                        "microseconds_per_event": result.microseconds_per_event,
                        "seconds_in_all": time.perf_counter() - began,
                        "state_bytes": result.nbytes,
                        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                    }
                )
    return found


def show_crowd(found: list[dict[str, Any]], dimension: int) -> None:
    """Print the table."""
    print(f"\nGoSGD, rho = 0.1, D = {dimension}; event: a worker's local step and exchange, in processor time")
    rows = [
        [
            f"{one['workers']:,}",
            one["clock"],
            one["delivery"],
            f"{one['events']:,}",
            f"{one['microseconds_per_event']:.2f}",
            f"{one['seconds_in_all']:.1f}",
            f"{one['state_bytes'] / 2**20:.1f}",
            f"{one['peak_bytes'] / 2**20:.0f}",
        ]
        for one in found
    ]
    header = ["workers", "clock", "delivery", "events", "us/event", "seconds in all", "state MiB", "process's peak MiB"]
    print(report.table(header, rows))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("consensus", __doc__)
    parser.add_argument("--repeats", type=options.whole(2), default=200)
    parser.add_argument(
        "--workers", type=options.whole(2), nargs="+", default=[1_000, 30_000, 1_000_000], help="of the crowd"
    )
    parser.add_argument(
        "--ticks", type=options.COUNT, default=500_000, help="events of the crowd at least, under ticks exactly"
    )
    parser.add_argument("--plot", type=options.output, metavar="FILE.png", help="draw thesis figure 2.3")
    given = parser.parse_args(arguments)
    if given.quick:
        given = argparse.Namespace(**{**vars(given), "repeats": 10, "workers": [100, 10_000], "ticks": 2000})
    scale, rounds = (0.05, 40) if given.quick else (1.0, 600)
    found = report.machine()
    print(report.describe(found))
    results: dict[str, Any] = {
        "levels": levels(given.repeats, 8, scale),
        "equal_messages": per_message(given.repeats, 32, rounds),
        "crowd": crowd(given.workers, 16, given.ticks),
        "figure_2_3": consensus_figure.figure(
            given.plot, max(10, given.repeats // 4), 100, 60 if given.quick else 1600
        ),
    }
    bars = show_levels(results["levels"])
    show_per_message(results["equal_messages"], rounds)
    show_crowd(results["crowd"], 16)
    print()
    report.finish(given, found, results, bars)


if __name__ == "__main__":
    report.run(main)
