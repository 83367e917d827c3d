"""What the commands' argument parsers have in common. Imports launch.errors."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from launch.errors import MISTAKE

NOT_RESUMED = "never"


class Parser(argparse.ArgumentParser):
    """argparse with one line for a mistake instead of the whole usage, and without guessing at shortened options."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **({"allow_abbrev": False} | options))

    def error(self, message: str) -> NoReturn:
        """Exit with the code of a user's mistake."""
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_config(parser: argparse.ArgumentParser) -> None:
    """A configuration and what is to be changed in it."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file or the name of a recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a value of the file")


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Whether to go on from checkpoints."""
    parser.add_argument(
        "--resume",
        default=NOT_RESUMED,
        metavar="auto|never|DIR",
        help="go on from the newest checkpoints of the run directory (auto) or of another one (DIR)",
    )
