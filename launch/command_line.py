"""The parser of the whole command line: a row a subcommand. Imports what each takes, and torch only when one runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.metadata import version

from launch import clusters, commands, inspection
from launch.arguments import Parser

Row = tuple[str, str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]

ROWS: list[Row] = [
    ("train", "train a model with several workers on this machine", commands.add_train, commands.train),
    ("launch", "write what starts a job on SLURM or Kubernetes", clusters.add, clusters.launch),
    ("validate", "check a configuration without running it", commands.add_validate, commands.validate),
    ("explain", "show what a job's exchange does and costs", commands.add_explain, commands.explain),
    ("replay", "rebuild a recorded run as a product of matrices", commands.add_replay, commands.replay),
    ("analyze", "look into the layers of a run's final model", commands.add_analyze, commands.analyze),
    ("chaos", "kill, stop and cut off workers of a job, and see what it costs", commands.add_chaos, commands.chaos),
    ("consensus", "consensus error of each method against theory", commands.add_consensus, commands.consensus),
    ("report", "write a page of what runs did", inspection.add_report, inspection.report),
    ("doctor", "find out what does not work on this machine", inspection.add_doctor, inspection.doctor),
    ("recipes", "list the recipes that come along, or copy one", inspection.add_recipes, inspection.recipes),
    ("completion", "write completion for your shell", inspection.add_completion, inspection.completion),
]


def parser() -> Parser:
    """The parser of the whole command line."""
    whole = Parser(
        prog="gosgd", description="Distributed training for PyTorch in which workers never wait for each other."
    )
    whole.epilog = (
        "examples:\n"
        "  gosgd train digits --workers 4     a first run, with data that comes along\n"
        "  gosgd report runs/digits           what it did, as a page\n"
        "  gosgd doctor                       when something does not work\n"
        "\n"
        "`gosgd COMMAND --help` shows options and examples of a command. Exit codes: 0 done, 1 failed, 2 a mistake in\n"
        "what was asked for, 128 + N ended by signal N."
    )
    whole.add_argument("--version", action="version", version=f"gosgd {version('gosgd')}")
    parsers = whole.add_subparsers(dest="command", required=True, metavar="command")
    for name, summary, add, function in ROWS:
        sub = parsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        sub.set_defaults(function=function, parser=sub, whole=whole)
        add(sub)
    return whole


def understood(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What a command line asks for; exits where it is a mistake."""
    given, rest = parser().parse_known_args(arguments)
    # argparse gives up on positional arguments behind an option: `gosgd train digits --workers 4 run.dir=here`.
    if not hasattr(given, "overrides") or not all("=" in word and not word.startswith("-") for word in rest):
        if rest:
            given.parser.unknown(rest)
    else:
        given.overrides += rest
    return given
