"""What `gosgd doctor`, `report`, `recipes` and `completion` take and do.

Imports configs and launch.arguments at once, everything that needs torch only when it runs.
"""

from __future__ import annotations

import argparse
import re
import shutil
from itertools import takewhile
from pathlib import Path

from configs import recipe_path
from configs import recipes as recipe_names
from launch.arguments import duration

SHELLS = ("bash", "zsh", "fish")


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd doctor`."""
    parser.epilog = (
        "examples:\n"
        "  gosgd doctor\n"
        "  gosgd doctor --json > doctor.json\n"
        "\n"
        "Versions, devices, shared memory, packages of the same name, and an exchange between two processes. The text\n"
        "is meant to be pasted into a bug report: it names no user, no host and no secret. The exit code is 1 when\n"
        "something is broken; such lines begin with a !."
    )
    parser.add_argument(
        "--timeout",
        type=duration,
        default=90.0,
        metavar="T",
        help="how long the exchange of two processes may take, such as 30s or 2m (default: 90s)",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def doctor(given: argparse.Namespace) -> int:
    """Look at this machine and try an exchange."""
    from launch.doctor import run

    return run(given.timeout, given.json)


def add_report(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd report`."""
    parser.epilog = (
        "examples:\n"
        "  gosgd report runs/digits\n"
        "  gosgd report runs/gossip runs/persyn --out compared.html\n"
        "\n"
        "One page that needs nothing else, with its pictures inside, and as PNG files beside it. It may be made while\n"
        "the job is running. Needs matplotlib (pip install 'gosgd[plots]')."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="one run, or several to compare")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="the page (default: report.html in the first RUN_DIR)"
    )


def report(given: argparse.Namespace) -> int:
    """Write the page."""
    from launch.report import run

    return run(given.runs, given.out)


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd completion`."""
    parser.epilog = (
        "examples:\n"
        "  gosgd completion bash > ~/.local/share/bash-completion/completions/gosgd\n"
        '  gosgd completion zsh > "${fpath[1]}/_gosgd"\n'
        "  gosgd completion fish > ~/.config/fish/completions/gosgd.fish\n"
        "\n"
        "Completes commands, options, recipes, files, and the keys of key=value, in shells started afterwards. Where\n"
        "bash has no bash-completion, add `source FILE` to ~/.bashrc. After an update of gosgd write the file again."
    )
    parser.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS), help="the shell to write it for")


def completion(given: argparse.Namespace) -> int:
    """Print the completion script."""
    from launch.completion import script

    print(script(given.whole, given.shell))
    return 0


def _first_sentence(text: str) -> str:
    """Of the comment that a recipe begins with."""
    comment = takewhile(lambda line: line.startswith("#"), text.splitlines())
    said = " ".join(line.lstrip("# ") for line in comment)
    return re.split(r"[.:](?:\s|$)", said, maxsplit=1)[0]


def add_recipes(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd recipes`."""
    parser.epilog = "examples:\n  gosgd recipes list\n  gosgd recipes copy digits my_job.yaml"
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|copy")
    listing = actions.add_parser(
        "list", help="name every recipe with its first line", description="Name every recipe with its first line."
    )
    listing.epilog = "example:\n  gosgd recipes list"
    copy = actions.add_parser("copy", help="copy a recipe to edit it", description="Copy a recipe to edit it.")
    copy.epilog = "examples:\n  gosgd recipes copy digits\n  gosgd recipes copy cifar10 jobs/mine.yaml"
    copy.add_argument("name", metavar="RECIPE", help="its name, see `gosgd recipes list`")
    copy.add_argument(
        "destination", nargs="?", metavar="FILE|DIR", help="where to (default: RECIPE.yaml here); never written over"
    )


def recipes(given: argparse.Namespace) -> int:
    """List recipes or copy one."""
    if given.action == "list":
        width = max(len(name) for name in recipe_names())
        for name in recipe_names():
            print(f"{name:<{width}}  {_first_sentence(recipe_path(name).read_text())}")
        return 0
    source = recipe_path(given.name)
    target = Path(given.destination or f"{given.name}.yaml")
    target = target / f"{given.name}.yaml" if target.is_dir() else target
    if target.exists():
        raise ValueError(f"got {target}, which exists already; expected a new file")
    if not target.parent.is_dir():
        raise ValueError(f"got {target}, whose folder does not exist; make it first")
    shutil.copyfile(source, target)
    print(target)
    return 0
