"""Sixteen workers under kills, stops and losses of several at once, beside sixteen that nobody disturbs.

A local step is one of SGD on the digits and a fixed sleep, so that survivors gain nothing from a victim's share of the
processors. Both jobs run at the same time, with the whole product under them: launcher, restarts, evaluations. At the
end the same job is trained without sleep with other seeds: the spread that the disturbed job's accuracy is to lie in.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import options, report, runs
from benchmarks.report import Bar
from configs import load
from launch.chaos import changed
from launch.chaos_figures import Told, figures
from launch.chaos_figures import report as told_report
from launch.chaos_plot import draw
from launch.disturber import Disturber
from launch.faults import Fault, Plague
from launch.nursery import Nursery
from launch.plan import make_plan
from launch.supervisor import Supervisor
from trainers.schema import Run

WORKERS, MINUTES, STEP_S, RHO = 16, 30.0, 0.1, 0.4
KILLS, STOPS, LOSSES = 40, 15, 7
STOP_S, LOST_AT_ONCE = 5.0, 3
SEEDS = 4
DISTURBED_SHARE = 0.95
"""Of the time: the last victims' successors are to be seen at work before the job ends."""
KEPT, KEPT_WITHOUT_DOWNTIME, WAIT_MS = 0.977, 0.995, 50.0


def settings(seed: int, sleep_s: float, steps: int) -> dict[str, Any]:
    """The job."""
    return {
        "name": "faults",
        "seed": seed,
        "data": {"name": "digits", "batch_size": 16},
        "model": {"name": "mlp", "hidden": [64]},
        "optimizer": {"name": "benchmarks.sleeping:SleepingSGD", "lr": 0.02, "sleep_s": sleep_s},
        "exchange": {"method": "gosgd", "rho": RHO},
        "train": {"steps": steps},
        "run": {"log_every": 10, "eval_every": 100, "tensorboard": False},
    }


def run_one(name: str, folder: Path, workers: int, steps: int, sleep_s: float, schedule: list[Fault]) -> Told:
    """One job to its end, in this process as its launcher."""
    config = folder / f"{name}.yaml"
    config.write_text(
        json.dumps(settings(0, sleep_s, steps) | {"run": settings(0, 0, 1)["run"] | {"workers": workers}})
    )
    companion = Disturber(schedule)
    with Nursery() as nursery:
        plan = make_plan(changed(load(str(config), [], Run), steps, folder / name), "never")
        code = Supervisor(plan, nursery, companion).run()
    if code:
        raise RuntimeError(f"the {name} job ended with code {code}")
    return Told.of(plan.directory, companion, workers)


def measure(
    folder: Path, workers: int, seconds: float, sleep_s: float, counts: tuple[int, int, int], seeds: int, seed: int
) -> tuple[Told, Told, dict[str, Any]]:
    """Both jobs side by side, then the seeds."""
    disturbed_s = DISTURBED_SHARE * seconds
    kills, stops, losses = (disturbed_s / count if count else 0.0 for count in counts)
    plague = Plague(kills, stops, STOP_S, several_every=losses, several=LOST_AT_ONCE, again=0.1, seed=seed)
    schedule = plague.schedule(workers, disturbed_s)
    steps = round(seconds / (1.02 * sleep_s))
    report.progress(f"{workers} workers, {steps} steps of {sleep_s} s, {len(schedule)} faults in {disturbed_s:.0f} s")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(run_one, name, folder, workers, steps, sleep_s, faults)
            for name, faults in (("undisturbed", []), ("disturbed", schedule))
        ]
        undisturbed, disturbed = (job.result() for job in jobs)
    found = figures(undisturbed, disturbed)
    found["scheduled"] = len(schedule)
    found["steps_of_sleep_alone"] = workers * found["seconds"] / sleep_s
    found["accuracy_of_seeds"] = []
    for other in range(1, seeds + 1):
        report.progress(f"seed {other}")
        summary = runs.train(settings(other, 0.0, steps), workers, folder / f"seed-{other}")
        found["accuracy_of_seeds"].append(summary["accuracy"])
    return undisturbed, disturbed, found


def show(found: dict[str, Any]) -> list[Bar]:
    """Returns the bars."""
    seeds = [*found["accuracy_of_seeds"], found["accuracy_undisturbed"]]
    print(f"accuracy undisturbed and of other seeds: {', '.join(f'{value:.2%}' for value in seeds)}")
    print(f"steps over those of sleep alone: {found['steps'] / found['steps_of_sleep_alone']:.2%}\n")
    return [
        Bar("steps kept", ">=", KEPT, found["kept"]),
        Bar("steps kept without the victims' downtime", ">=", KEPT_WITHOUT_DOWNTIME, found["kept_without_downtime"]),
        Bar(
            "longest exchange of a healthy worker over the undisturbed one's, ms",
            "<=",
            WAIT_MS,
            found["longest_wait_ms"] - found["longest_wait_undisturbed_ms"],
        ),
        Bar("faults", ">=", KILLS + STOPS + LOSSES, found["scheduled"]),
        Bar("accuracy, against the lowest of the seeds", ">=", min(seeds), found["accuracy"]),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("faults", __doc__)
    parser.add_argument("--workers", type=options.whole(2), default=WORKERS)
    parser.add_argument("--minutes", type=options.above_zero, default=MINUTES)
    parser.add_argument(
        "--step", type=options.above_zero, default=STEP_S, metavar="S", help="seconds a local step sleeps"
    )
    parser.add_argument(
        "--seeds", type=options.whole(0), default=SEEDS, help="of the undisturbed job without sleep (%(default)s)"
    )
    parser.add_argument("--seed", type=options.whole(0), default=0, help="of the schedule")
    parser.add_argument("--plot", type=options.output, metavar="FILE.png", help="throughput over time")
    given = parser.parse_args(arguments)
    counts = (KILLS, STOPS, LOSSES)
    if given.quick:
        given.workers, given.minutes, given.step, given.seeds, counts = 3, 0.15, 0.02, 1, (1, 1, 0)
    found = report.machine()
    print(report.describe(found))
    with tempfile.TemporaryDirectory(prefix="gosgd-faults-") as folder:
        undisturbed, disturbed, results = measure(
            Path(folder), given.workers, 60 * given.minutes, given.step, counts, given.seeds, given.seed
        )
        print(told_report(results, Path("-")))
        if given.plot is not None:
            draw(given.plot, undisturbed, disturbed, results)
    report.finish(given, found, results, show(results))


if __name__ == "__main__":
    report.run(main)
