"""The same job under this project and under the libraries that do its work, beside each other in one run.

Two workers with one thread each train the project's CNN (200K parameters) and a 7M MLP on images made here: same
initial weights, same batches, same optimizer, a meeting every ten steps where a library lets one choose. Scenarios:
plain; with a last worker whose steps take five times as long, where who need not wait makes five times the steps; with
a last worker that is killed. Engines take turns by rounds, each round in processes of its own; what a step costs is
measured in turns with a loop without exchange in the same processes. Libraries are installed into environments of their
own in `--environments DIR`, or skipped with the reason. `gosgd` is claimed to be ahead of every library in these
columns: plain, step and samples a second; slow, samples a second and seconds to the target; killed, all. Each claim is
printed as a ratio to the best library, whoever is ahead; `none` exchanges nothing and stands outside.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import options, report
from benchmarks.loops import BATCH_SIZE, CLASSES, NETWORKS
from benchmarks.peers import environments, figures, launch, pages
from benchmarks.peers.pages import KILLED, PLAIN, SLOW
from benchmarks.peers.sheets import Task
from benchmarks.peers.table import BY_NAME, ENGINES, Row
from benchmarks.thesis import pretend

WORKERS = 2
PERIOD = 10
IMAGES = 2000
LEARNING_RATE = {"200k": 0.05, "7m": 0.02}
TARGET = 0.5
"""Training loss, of 2.3 at the start."""
SLOWED = 5.0
PAIRS, TURN = 5, 20
LIMIT_S = 180.0
PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
QUICK = {"engines": "none,gosgd,persyn,ddp,averager", "models": "200k", "rounds": 1, "steps": 40, "patience": 5.0}


def task(row: Row, scenario: str, model: str, steps: int) -> Task:
    """The job of an engine in a scenario."""
    return Task(
        module=row.module,
        variant=row.variant,
        served=row.served,
        workers=WORKERS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE[model],
        period=PERIOD,
        steps=steps,
        slowed=SLOWED if scenario == SLOW else 1.0,
        killed_at=steps // 3 if scenario == KILLED else 0,
        pairs=PAIRS if scenario == PLAIN else 0,
        turn=min(TURN, steps),
    )


def measure(given: argparse.Namespace, found: dict[str, Any], stack: ExitStack) -> None:
    """Fill `found` round by round; a table gets another round only if the time that it took before is left."""
    nurseries: dict[str, launch.Nursery] = {}
    ready: dict[str, launch.Nursery] = {}
    for name in given.engines.split(","):
        environment = environments.prepare(BY_NAME[name], given.environments)
        if environment.python is None:
            found["skipped"][name] = environment.reason
            report.progress(f"{name} is skipped: {environment.reason}")
        else:
            module = BY_NAME[name].module
            if module not in nurseries:
                nurseries[module] = stack.enter_context(launch.Nursery(environment.python, module))
            ready[name] = nurseries[module]
            found["versions"][name] = environment.versions
    began, taken = time.monotonic(), dict.fromkeys(blocks := _blocks(given), 0.0)
    for turn in range(given.rounds):
        for scenario, model in blocks:
            at = time.monotonic()
            if turn and at - began + taken[scenario, model] > 60 * given.minutes:
                report.progress(f"round {turn + 1}: no time is left for {scenario}, {model}")
                continue
            lists = found["runs"].setdefault(scenario, {}).setdefault(model, {name: [] for name in ready})
            # Each engine comes first, last and in between: neighbours on the machine come and go.
            names = list(ready)[turn % len(ready) :] + list(ready)[: turn % len(ready)]
            for name in names:
                lists[name].append(_one(name, ready[name], scenario, model, given))
                report.progress(f"round {turn + 1}, {scenario}, {model}, {name}: {lists[name][-1]['outcome']}")
            taken[scenario, model] = max(taken[scenario, model], time.monotonic() - at)


def _blocks(given: argparse.Namespace) -> list[tuple[str, str]]:
    return [(scenario, model) for scenario in given.scenarios.split(",") for model in given.models.split(",")]


def _one(name: str, nursery: launch.Nursery, scenario: str, model: str, given: argparse.Namespace) -> dict[str, Any]:
    network = NETWORKS[model]
    channels, side = network.shape[0], network.shape[1]
    images = pretend.images(IMAGES, CLASSES, side, channels, seed=7)
    job = task(BY_NAME[name], scenario, model, given.steps)
    ran = launch.run(nursery, job, network.build(), images, given.patience, LIMIT_S)
    return figures.figures(ran, job, TARGET)


def show(found: dict[str, Any]) -> list[report.Bar]:
    """Print every table; returns the claims."""
    made = []
    for scenario, models in found["runs"].items():
        for model, engines in models.items():
            if scenario == SLOW and PLAIN in found["runs"]:
                for name, runs in engines.items():
                    pages.keep_of(runs, found["runs"][PLAIN][model][name])
            print(f"\n{pages.show(scenario, model, engines, found['skipped'])}")
            made += pages.bars(scenario, model, engines)
    print(f"\n{pages.reasons(found['runs'], found['skipped'])}\n")
    return made


def _kept(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
        for scenario, model in product(pages.SCENARIOS, LEARNING_RATE):
            document["results"]["runs"][scenario][model]["gosgd"]
    except OSError as error:
        raise ValueError(f"--page: got {path}, which cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"--page: got {path}, expected a JSON of this benchmark with every table of the page"
        ) from None
    return dict(document)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("peers", __doc__)
    parser.add_argument("--environments", type=Path, metavar="DIR", help="where libraries are installed, and kept")
    parser.add_argument(
        "--engines", type=options.some_of(BY_NAME), default=",".join(row.name for row in ENGINES), help="(%(default)s)"
    )
    parser.add_argument(
        "--models", type=options.some_of(LEARNING_RATE), default=",".join(LEARNING_RATE), help="(%(default)s)"
    )
    parser.add_argument(
        "--scenarios", type=options.some_of(pages.SCENARIOS), default=",".join(pages.SCENARIOS), help="(%(default)s)"
    )
    parser.add_argument("--rounds", type=options.COUNT, default=5, help="(%(default)s)")
    parser.add_argument(
        "--minutes",
        type=options.at_least_zero,
        default=60.0,
        help="no table gets a further round that would end later",
    )
    parser.add_argument("--steps", type=options.whole(3), default=100, help="of training, a worker")
    parser.add_argument(
        "--page", type=Path, metavar="JSON", help="put what was measured before into docs/peers.md, and measure nothing"
    )
    parser.add_argument(
        "--patience",
        type=options.above_zero,
        default=20.0,
        help="seconds without a step before a job is said to hang",
    )
    given = parser.parse_args(arguments)
    if given.page is not None:
        with options.mistakes(parser):
            filled = pages.filled(PAGE.read_text(), _kept(given.page))
        PAGE.write_text(filled)
        return
    if given.quick:
        given = argparse.Namespace(**{**vars(given), **QUICK})
    machine = report.machine()
    print(report.describe(machine))
    print(
        f"M = {WORKERS}, batch {BATCH_SIZE}, {given.steps} steps, a meeting every {PERIOD}, target: a training loss"
        f" of {TARGET}; who makes no step for {given.patience:g} s is said to hang"
    )
    results: dict[str, Any] = {"skipped": {}, "versions": {}, "runs": {}}
    with ExitStack() as stack:
        measure(given, results, stack)
    report.finish(given, machine, results, show(results))


if __name__ == "__main__":
    report.run(main)
