"""What the benchmarks' command lines have in common: options, checked values, a mistake told in one line.

Imports launch.arguments and trainers.data. Checks are argparse types that give back what they were given, so that the
settings in a JSON are what was asked for.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from configs import suggestion
from launch.arguments import Help, Parser
from launch.errors import MISTAKE
from trainers.data.files import MissingFilesError


def parser(name: str, description: str | None) -> Parser:
    """The options every benchmark has.

    Args:
        name: of the module in this package.
    """
    made = Parser(prog=f"python -m benchmarks.{name}", description=description, formatter_class=Help)
    made.add_argument("--json", type=output, metavar="FILE", help="write everything that was measured there")
    made.add_argument("--quick", action="store_true", help="a small size that shows that the script works")
    return made


@contextmanager
def mistakes(command: argparse.ArgumentParser) -> Iterator[None]:
    """Tell a ValueError within as a mistake of whoever gave the command, and end with the code of one."""
    try:
        yield
    except ValueError as error:
        command.exit(MISTAKE, f"{command.prog}: {told(error)}\n")


def told(error: ValueError) -> str:
    """What an error says, with the option in place of the key of a configuration."""
    if isinstance(error, MissingFilesError):
        return f"{error.sought}\nget the files from {error.home} and name their folder with --data-root"
    return str(error)


def output(text: str) -> Path:
    """A file that can be written when the hours before it are over."""
    path = Path(text)
    place = path if path.exists() else path.parent
    if path.is_dir() or not place.exists() or not os.access(place, os.W_OK):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a file in a folder that exists and can be written to")
    return path


def whole(least: int) -> Callable[[str], int]:
    """A whole number, not below another."""

    def read(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of {least} or more")
        return int(text)

    return read


COUNT = whole(1)


def wholes(least: int) -> Callable[[str], str]:
    """Whole numbers with commas between them."""
    read = whole(least)

    def check(text: str) -> str:
        for one in text.split(","):
            read(one)
        return text

    return check


def above_zero(text: str) -> float:
    """A finite number above 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number above 0")
    return number


def at_least_zero(text: str) -> float:
    """A finite number, 0 or more."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of 0 or more")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number") from None


def some_of(names: Iterable[str]) -> Callable[[str], str]:
    """Names with commas between them, each one of these."""
    known = [*names]

    def check(text: str) -> str:
        for name in text.split(","):
            if name not in known:
                expected = f"some of {','.join(known)}, with commas between them"
                raise argparse.ArgumentTypeError(f"got {name!r}, expected {expected}{suggestion(name, known)}")
        return text

    return check
