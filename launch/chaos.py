"""`gosgd chaos`: the same job undisturbed and under faults, and what became of it. Imports launch's lower modules."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from configs import Loaded
from gossip.directory import JobDirectory
from launch.chaos_figures import Told, figures, report
from launch.disturber import Disturber
from launch.errors import DONE, FAILED, RunFailedError, say
from launch.faults import Plague
from launch.nursery import Nursery
from launch.plan import Plan, make_plan
from launch.seat import Seat
from launch.settings import read
from launch.supervisor import Supervisor
from trainers.schema import Run

_DISTURBED_SHARE = 0.9
"""Of the time: faults end before the training does, so that what they broke can be seen to mend."""
_MANY = 1_000_000


def run(given: argparse.Namespace) -> int:
    """Measure how fast the job goes, run it undisturbed, run it under faults, report. Returns the exit code."""
    with Nursery() as nursery:
        return _run(given, nursery)


def _run(given: argparse.Namespace, nursery: Nursery) -> int:
    loaded = read(given.config, given.overrides, given.workers)
    _check(given, loaded)
    folder = Path(given.out or Path("runs") / f"{loaded.config.name}-chaos")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--out: got {folder}, which is not empty; expected a new directory")
    steps = _steps(loaded, given.duration, nursery) if given.steps is None else given.steps
    say(f"{steps:,} steps a worker, about {given.duration:.0f} s; undisturbed first")
    plague = Plague(
        kill_every=given.kill_every,
        stop_every=given.stop_every,
        stop_for=given.stop_for,
        partition_every=given.partition_every,
        partition_for=given.partition_for,
        several_every=given.several_every,
        several=given.several,
        seed=given.seed,
    )
    schedule = plague.schedule(loaded.config.run.workers, _DISTURBED_SHARE * given.duration)
    told = {}
    for name, faults in (("undisturbed", []), ("disturbed", schedule)):
        plan = make_plan(changed(loaded, steps, folder / name), "never")
        companion = Disturber(faults, last=bool(faults), seed=given.seed)
        supervisor = Supervisor(plan, nursery, companion)
        code = supervisor.run()
        if supervisor.interrupted:  # by SIGTERM, too, after which a job has ended well, but not a comparison
            return 128 + supervisor.interrupted
        if code != DONE:
            return code
        summary = plan.directory.read_summary()
        if summary is None or summary["interrupted"]:
            raise RunFailedError(f"{name}: the job was stopped before its end (run directory {plan.directory.path})")
        told[name] = Told.of(plan.directory, companion, plan.workers)
        say(f"{name}: done, {len(companion.recoveries)} processes killed")
    found = figures(told["undisturbed"], told["disturbed"]) | {"plague": dataclasses.asdict(plague)}
    (folder / "chaos.json").write_text(json.dumps(found, indent=1) + "\n")
    print(report(found, folder))
    with contextlib.suppress(ImportError):
        from launch.chaos_plot import draw

        draw(folder / "chaos.png", told["undisturbed"], told["disturbed"], found)
    return DONE if found["ledger_balanced"] is not False else FAILED


def _check(given: argparse.Namespace, loaded: Loaded[Run]) -> None:
    if given.duration < 1:
        raise ValueError(f"--duration: got {given.duration:g} s, expected at least 1 s")
    if not any((given.kill_every, given.stop_every, given.several_every, given.partition_every)):
        raise ValueError(
            "got no faults, expected at least one of --kill-every, --stop-every, --several-every, --partition-every"
        )
    for name in ("steps", "several"):
        if (count := getattr(given, name)) is not None and count < 1:
            raise ValueError(f"--{name}: got {count}, expected at least 1")
    workers = loaded.config.run.workers
    if workers < 2:
        raise ValueError(f"got {workers} worker, expected at least 2: nobody would be left to go on (--workers 4)")
    if given.several_every and given.several >= workers:
        raise ValueError(f"--several: got {given.several}, expected fewer than the {workers} workers")
    if given.partition_every and loaded.config.exchange.method != "gosgd":
        raise ValueError(
            f"--partition-every: got exchange.method {loaded.config.exchange.method}, expected gosgd: only its workers"
            " meet in a way that can be cut on one machine"
        )


def changed(loaded: Loaded[Run], steps: int, folder: Path) -> Loaded[Run]:
    """The job with as many steps, in its own directory, and with restarts that last."""
    run = loaded.config
    train = run.train.model_copy(update={"steps": steps, "epochs": None})
    options = run.run.model_copy(update={"dir": str(folder), "restarts": _MANY})
    return dataclasses.replace(loaded, config=run.model_copy(update={"train": train, "run": options}))


class _Pace:
    """A companion that ends the job once it has seen how fast it goes."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._onlooker = Disturber([])
        self.rate = 0.0

    def prepare(self, job: JobDirectory) -> None:
        self._onlooker.prepare(job)

    def turn(self, seats: Sequence[Seat]) -> None:
        onlooker = self._onlooker
        onlooker.turn(seats)
        if onlooker.began is None or self.rate:
            return
        looks = [look for look in onlooker.looks if look.time >= onlooker.began]
        if looks and looks[-1].time - looks[0].time >= self._for_s:
            self.rate = (looks[-1].steps - looks[0].steps) / (looks[-1].time - looks[0].time) / len(seats)
            os.kill(os.getpid(), signal.SIGTERM)  # the supervisor listens, and ends the job in good order

    def finish(self) -> None:
        self._onlooker.finish()


def _steps(loaded: Loaded[Run], duration_s: float, nursery: Nursery) -> int:
    """As many steps of a worker as take so long undisturbed."""
    for_s = min(10.0, max(2.0, 0.1 * duration_s))
    say(f"measuring for {for_s:.0f} s how fast the job goes")
    with tempfile.TemporaryDirectory(prefix="gosgd-pace-") as folder:
        plan: Plan = make_plan(changed(loaded, _MANY * 1000, Path(folder) / "run"), "never")
        pace = _Pace(for_s)
        supervisor = Supervisor(plan, nursery, pace)
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            supervisor.run()
    if not pace.rate:
        say("interrupted")
        sys.exit(128 + supervisor.interrupted)
    return max(1, round(pace.rate * duration_s))
