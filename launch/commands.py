"""What each subcommand takes and does. Imports configs at once, everything that needs torch only when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from configs import dump
from launch import detach
from launch.arguments import NOT_RESUMED, Instead, add_config, add_resume, duration

if TYPE_CHECKING:
    from launch.places import Place
    from launch.plan import Plan


def add_train(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd train`."""
    parser.epilog = (
        "examples:\n"
        "  gosgd train digits --workers 4\n"
        "  gosgd train digits exchange.rho=0.02 run.dir=runs/slow --workers 8\n"
        "  gosgd train job.yaml --resume auto\n"
        "  gosgd train digits --detach\n"
        "  gosgd train --join runs/digits --workers 2\n"
        "  gosgd train job.yaml --hosts node1,node2:29500 --workers 8"
    )
    config = add_config(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes to start (default: run.workers)")
    add_resume(parser)
    parser.add_argument(
        "--join",
        action=Instead,
        of=config,
        metavar="RUN_DIR",
        help="add workers (default: 1) to the job that is running with this run directory; takes no CONFIG",
    )
    parser.add_argument(
        "--detach", action="store_true", help="run in the background, whatever becomes of this terminal"
    )
    parser.add_argument(
        "--hosts",
        metavar="A,B,C[:PORT]",
        help="print the torchrun line that starts the job's workers (then --workers on each) on each of these hosts",
    )
    parser.add_argument("--run", action="store_true", help="with --hosts: run the line of this host")
    parser.add_argument("--dry-run", action="store_true", help="check everything, start nothing")
    parser.add_argument("--print-config", action="store_true", help="print the configuration with every default")


def train(given: argparse.Namespace) -> int:
    """Check the job, then run it."""
    if given.join is not None and (given.config is not None or given.overrides or given.resume != NOT_RESUMED):
        raise ValueError(
            "got --join with CONFIG, key=value or --resume, expected --join RUN_DIR alone: the job has both"
        )
    if given.run and given.hosts is None:
        raise ValueError("got --run without --hosts, expected --hosts A,B,C --run on each of these hosts")
    if given.hosts is not None:
        if given.join is not None or given.detach or given.dry_run or given.print_config:
            raise ValueError("got --hosts with --join, --detach, --dry-run or --print-config, expected it without")
        from launch import hosts

        return hosts.run(given.hosts, given.config, given.overrides, given.workers, given.resume, given.run)
    if given.detach and not (given.print_config or given.dry_run or detach.in_background()):
        return detach.start(_words(given))
    if given.print_config or given.dry_run:
        return _show(given)
    from launch.nursery import Nursery
    from launch.supervisor import Supervisor

    with Nursery() as nursery:
        plan, place = _planned(given)
        companion = detach.Announcement(plan.directory) if given.detach else None
        return Supervisor(plan, nursery, companion, place).run()


def _show(given: argparse.Namespace) -> int:
    """Print what would be run."""
    from launch.settings import read

    if given.print_config and given.join is None:
        print(dump(read(given.config, given.overrides, given.workers).config), end="")
        return 0
    plan, _ = _planned(given)
    print(dump(plan.run) if given.print_config else f"{plan.describe()}\n", end="")
    return 0


def _planned(given: argparse.Namespace) -> tuple[Plan, Place]:
    """The job that is meant, and this launcher's place in it."""
    from launch.join import plan_to_join
    from launch.places import Founding
    from launch.plan import make_plan
    from launch.settings import read

    if given.join is not None:
        return plan_to_join(given.join, 1 if given.workers is None else given.workers, given.detach)
    loaded = read(given.config, given.overrides, given.workers)
    plan = make_plan(loaded, given.resume, detached=given.detach)
    return plan, Founding(plan)


def _words(given: argparse.Namespace) -> list[str]:
    """The command line of `gosgd train` that asks for the same."""
    words = ["train", "--detach"]
    words += [] if given.workers is None else ["--workers", str(given.workers)]
    return words + (
        ["--join", given.join] if given.join else ["--resume", given.resume, given.config, *given.overrides]
    )


def add_validate(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd validate`."""
    parser.epilog = "example:\n  gosgd validate job.yaml"
    add_config(parser)


def validate(given: argparse.Namespace) -> int:
    """Check a configuration's keys and values."""
    from launch.settings import read

    loaded = read(given.config, given.overrides)
    print(f"{loaded.path}: in order")
    return 0


def add_explain(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd explain`."""
    parser.epilog = "examples:\n  gosgd explain digits\n  gosgd explain job.yaml exchange.rho=0.02 --workers 64"
    add_config(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes (default: run.workers)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def explain(given: argparse.Namespace) -> int:
    """Show a job's matrix, costs and predicted consensus error."""
    from launch.explain import run

    return run(given.config, given.overrides, given.workers, given.json)


def add_replay(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd replay`."""
    parser.epilog = "example:\n  gosgd train digits exchange.trace=updates run.dir=traced\n  gosgd replay traced"
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="of a run with exchange.trace: updates or events")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def replay(given: argparse.Namespace) -> int:
    """Replay a run and compare it with the weights it ended with."""
    from launch.replay import run

    return run(given.run, given.json)


def add_analyze(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd analyze`."""
    parser.epilog = (
        "examples:\n"
        "  gosgd analyze runs/digits\n"
        "  gosgd analyze runs/digits --only scores,modes --layers 'features.*'\n"
        "\n"
        "scores: VECA and EDM of each layer; modes: how far apart the two modes of its neurons are, modes.png;\n"
        "binary: accuracy with one bit a neuron in a layer; information: I(X;T) and I(T;Y), information.png"
    )
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="of a run that came to its end")
    parser.add_argument("--layers", metavar="PATTERNS", help="names or patterns, with commas (default: all but logits)")
    parser.add_argument(
        "--samples", type=int, default=2000, metavar="N", help="held-out samples (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=200, metavar="N", help="of tuning, and of critics (default: %(default)s)"
    )
    parser.add_argument("--only", metavar="PARTS", help="some of scores,modes,binary,information (default: all)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def analyze(given: argparse.Namespace) -> int:
    """Measure what the layers of a run's final model hold."""
    from launch.analyze import run

    return run(given)


def add_chaos(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd chaos`."""
    parser.epilog = (
        "examples:\n"
        "  gosgd chaos digits --workers 4 --duration 1m --kill-every 10s\n"
        "  gosgd chaos job.yaml --duration 10m --kill-every 20s --stop-every 30s --stop-for 5s --partition-every 2m\n"
        "\n"
        "T is a time such as 30s, 10m or 1.5h; faults that are not asked for do not come. The job runs twice,\n"
        "undisturbed and under faults, with as many steps as fill the time. chaos.json and chaos.png go to the output\n"
        "directory, each run to a folder there."
    )
    add_config(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes (default: run.workers)")
    parser.add_argument("--duration", type=duration, default=60.0, metavar="T", help="of each run (default: 1m)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of a worker, instead of measuring the pace first")
    parser.add_argument("--kill-every", type=duration, default=0.0, metavar="T", help="kill a worker about every T")
    parser.add_argument("--stop-every", type=duration, default=0.0, metavar="T", help="stop a worker about every T")
    parser.add_argument("--stop-for", type=duration, default=5.0, metavar="T", help="for so long (default: 5s)")
    parser.add_argument(
        "--several-every", type=duration, default=0.0, metavar="T", help="kill several at once about every T"
    )
    parser.add_argument("--several", type=int, default=2, metavar="N", help="how many those are (default: 2)")
    parser.add_argument("--partition-every", type=duration, default=0.0, metavar="T", help="cut half the workers off")
    parser.add_argument("--partition-for", type=duration, default=5.0, metavar="T", help="for so long (default: 5s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the schedule (default: 0)")
    parser.add_argument("--out", metavar="DIR", help="a new directory (default: runs/NAME-chaos)")


def chaos(given: argparse.Namespace) -> int:
    """Run a job under faults and report what they cost."""
    from launch.chaos import run

    return run(given)


def add_consensus(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd consensus`."""
    parser.epilog = (
        "examples:\n"
        "  gosgd consensus --plot consensus.png\n"
        "  gosgd consensus --methods gosgd,easgd,none --rhos 0.02 --clock tick --steps 20000\n"
        "  gosgd consensus --rhos 0.1 --real --json -"
    )
    parser.add_argument(
        "--methods",
        default="gosgd,persyn",
        metavar="NAMES",
        help="of none, fully_sync, persyn, easgd, easgd_async, downpour, gosgd, gosgd_adaptive, pairwise"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--rhos", default="0.01,0.1,0.4", metavar="RATES", help="exchanges of a worker per step (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=8, metavar="M", help="how many workers (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=1000, metavar="D", help="weights of a worker (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=1000, metavar="N", help="rounds, or single ticks (default: %(default)s)"
    )
    parser.add_argument(
        "--clock",
        choices=["round", "tick"],
        default="round",
        help="whether all workers update in a step, or one (default: %(default)s)",
    )
    parser.add_argument(
        "--delivery",
        choices=["instant", "queued"],
        default="instant",
        help="whether messages are merged at once, or at the next step (default: %(default)s)",
    )
    parser.add_argument(
        "--variance", type=float, default=1.0, metavar="V", help="of the updates (default: %(default)s)"
    )
    parser.add_argument("--alpha", type=float, metavar="A", help="elastic rate of easgd (default: 0.9 / M)")
    parser.add_argument(
        "--repeats", type=int, default=20, metavar="R", help="simulations side by side (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random (default: %(default)s)")
    parser.add_argument("--real", action="store_true", help="also measure live worker processes")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the curves")
    parser.add_argument("--json", metavar="FILE|-", help="write every figure, - for standard output")


def consensus(given: argparse.Namespace) -> int:
    """Compare methods by the consensus they hold and the messages they send."""
    from launch.consensus import run

    return run(given)
