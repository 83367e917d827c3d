"""What the commands' argument parsers have in common. Imports launch.errors."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from launch.errors import MISTAKE

NOT_RESUMED = "never"
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Parser(argparse.ArgumentParser):
    """argparse with one line for a mistake instead of the whole usage, and without guessing at shortened options."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **({"allow_abbrev": False} | options))

    def error(self, message: str) -> NoReturn:
        """Exit with the code of a user's mistake."""
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_config(parser: argparse.ArgumentParser) -> argparse.Action:
    """A configuration and what is to be changed in it. Returns the argument that names the configuration."""
    config = parser.add_argument("config", metavar="CONFIG", help="a YAML file or the name of a recipe")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="replaces a value of the file")
    return config


class Instead(argparse.Action):
    """An option with which another argument need not be given.

    Args:
        of: the other argument.
    """

    def __init__(self, *arguments: Any, of: argparse.Action, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._of = of

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Take the value."""
        setattr(namespace, self.dest, values)
        self._of.required = False


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Whether to go on from checkpoints."""
    parser.add_argument(
        "--resume",
        default=NOT_RESUMED,
        metavar="auto|never|DIR",
        help="go on from the newest checkpoints of the run directory (auto) or of another one (DIR)",
    )


def duration(text: str) -> float:
    """Seconds, from `90`, `90s`, `1.5m` or `2h`.

    Raises:
        argparse.ArgumentTypeError: it is no such time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a time such as 30s, 10m or 1.5h")
    return float(match[1]) * _UNITS[match[2]]
