"""What the commands' argument parsers have in common. Imports configs and launch.errors."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from configs import suggestion
from launch.errors import MISTAKE

NOT_RESUMED = "never"
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)")
_NUMBER = re.compile(r"argument (\S+): invalid (int|float) value: (.*)")
_WIDE = 30


class Help(argparse.RawDescriptionHelpFormatter):
    """Help with room for long names, and with epilogs as they are written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_WIDE)

    def add_argument(self, action: argparse.Action) -> None:
        """Count the indent of subcommands, too, which argparse forgets: the longest would wrap."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


class Parser(argparse.ArgumentParser):
    """argparse with one line for a mistake instead of the whole usage, and without guessing at shortened options."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", Help)
        super().__init__(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        """Exit with the code of a user's mistake: what was got, what was expected, what may have been meant."""
        if choice := _CHOICE.fullmatch(message):
            names = choice[3].replace("'", "").split(", ")
            message = (
                f"{choice[1]}: got {choice[2]!r}, expected one of {', '.join(names)}{suggestion(choice[2], names)}"
            )
        elif number := _NUMBER.fullmatch(message):
            kind = "a whole number" if number[2] == "int" else "a number"
            message = f"{number[1]}: got {number[3]}, expected {kind}"
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Exit because of words that mean nothing, in the name of the subcommand that was given them."""
        names = [name for name in self._option_string_actions if name.startswith("--")]
        known = suggestion(words[0].partition("=")[0], names) if words[0].startswith("-") else ""
        self.error(f"got {' '.join(words)}, which it does not take{known}")


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
