"""What `gosgd doctor`, `gosgd report` and `gosgd completion` take. Imports launch.arguments; the rest when they run."""

from __future__ import annotations

import argparse
from pathlib import Path

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
        "--timeout", type=duration, default=90.0, metavar="T", help="for the exchange of two processes (default: 90s)"
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

    print(script(given.shell))
    return 0
