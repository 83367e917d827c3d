"""The error of a configuration, and the words in which it names places and values.

Lowest module of the loader: may import nothing else of this project.
"""

from __future__ import annotations

from typing import Any, NamedTuple

KeyPath = tuple[str | int, ...]


class ConfigError(ValueError):
    """A user's mistake in a configuration: one line a problem, two lines at most.

    Args:
        problems: every problem found, each a sentence that starts with its place.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = tuple(one_line(problem) for problem in problems)

    def __str__(self) -> str:
        if len(self.problems) <= 2:
            return "\n".join(self.problems)
        return f"{self.problems[0]}\nand {len(self.problems) - 1} more problems"


class Place(NamedTuple):
    """Where a value was written: what an error calls it, and its rank when problems are sorted."""

    label: str
    line: int


class Document(NamedTuple):
    """Plain data with the place of each key path; a path without a place of its own is at its nearest ancestor's."""

    data: Any
    places: dict[KeyPath, Place]

    def place(self, path: KeyPath) -> Place:
        """The place of `path`, or of the nearest section around it."""
        return next(self.places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.places)


def one_line(text: str) -> str:
    """`text` without line breaks, other unprintable characters escaped, cut where it is no longer readable."""
    joined = " ".join(line.strip() for line in text.splitlines())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)
    return clip(shown, 1000)


def clip(text: str, length: int) -> str:
    """`text`, cut to `length` characters."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def dotted(path: KeyPath) -> str:
    """A key path as an override spells it: `regularizers.0.weight`."""
    return ".".join(str(part) for part in path)


def describe(value: Any, kind: bool = False) -> str:
    """A value as an error message shows it; `kind` adds that a text is one."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)} {'entry' if len(value) == 1 else 'entries'}"
    if value is None:
        return "null (no value)"
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return clip(shown, 60) + (" (text)" if kind and isinstance(value, str) else "")
