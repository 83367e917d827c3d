"""YAML text to plain data, with the place of every key, so that a mistake can be named by file and line.

What is read is the JSON-like core of YAML 1.2: `true`/`false` are the only booleans, `1e-4` is a number, and `on`,
`010`, `1:30` or a date stay text. Anchors, aliases and `<<` work; tags, duplicate keys and keys other than text are
refused.
May import configs.errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from configs.errors import ConfigError, Document, KeyPath, Place, describe, dotted

MAX_DEPTH = 50
MAX_VALUES = 100_000

HINTS = {
    "'\\t'": "; indent with spaces, not tabs",
    "mapping values are not allowed": "; check the indentation, and put text that contains ': ' in quotes",
}
TAG = "tag:yaml.org,2002:"
CORE_SCALARS = [
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), list("-+0123456789")),
    (
        "float",
        re.compile(
            r"(?:[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        list("-+.0123456789"),
    ),
    ("merge", re.compile(r"<<\Z"), ["<"]),
]


def parse(text: str, place: Callable[[int], Place], at: KeyPath = ()) -> Document:
    """The data written in `text`; an empty document is `None`.

    Args:
        text: YAML.
        place: from a line (counted from 1) to what an error calls it.
        at: the key path under which the data will live.

    Raises:
        ConfigError: broken or refused YAML.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        reader = _Reader(place)
        data = None if node is None else reader.value(node, at)
    except _RefusedError as error:
        raise ConfigError(f"{place(error.line).label}: {error}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"U+{error.character:04X}" if isinstance(error.character, int) else repr(error.character)
        raise ConfigError(f"{place(line).label}: got the character {found}, expected printable text") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_broken(error, place)) from None
    except ValueError as error:
        # PyYAML lets chr() fail on an escape such as "\U00110000".
        raise ConfigError(f"{place(1).label}: got broken YAML: {error}") from None
    reader.places[at] = place(1 if node is None else node.start_mark.line + 1)
    return Document(data, reader.places)


def _broken(error: yaml.MarkedYAMLError, place: Callable[[int], Place]) -> str:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    context = error.context or ""
    if context and error.context_mark and error.context_mark.line + 1 != line:
        context += f" from line {error.context_mark.line + 1}"
    problem = ", ".join(part for part in (context, error.problem) if part)
    hint = next((hint for part, hint in HINTS.items() if part in problem), "")
    return f"{place(line).label}: got broken YAML: {problem}{hint}"


class _RefusedError(Exception):
    """Well-formed YAML that a configuration may not contain."""

    def __init__(self, node: yaml.Node | yaml.Event, path: KeyPath, text: str) -> None:
        super().__init__(f"{dotted(path)}: {text}" if path else text)
        self.line = node.start_mark.line + 1 if node.start_mark else 1


class _Loader(yaml.SafeLoader):
    """Composes nodes with the scalars above; refuses tags, and nesting that would exhaust the stack."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _RefusedError(event, (), f"got the YAML tag {event.tag!r}, expected a value without a tag")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _RefusedError(event, (), f"got more than {MAX_DEPTH} levels of nesting, expected fewer")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in CORE_SCALARS:
    _Loader.add_implicit_resolver(TAG + _name, _pattern, _first)


class _Reader:
    """Turns nodes into fresh plain data and notes where each key stands."""

    def __init__(self, place: Callable[[int], Place]) -> None:
        self.place = place
        self.places: dict[KeyPath, Place] = {}
        self.values = 0

    def value(self, node: yaml.Node, path: KeyPath, parents: tuple[yaml.Node, ...] = ()) -> Any:
        self.enter(node, path, parents)
        inside = (*parents, node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, inside)
        if isinstance(node, yaml.SequenceNode):
            entries = []
            for index, entry in enumerate(node.value):
                self.places[(*path, index)] = self.place(entry.start_mark.line + 1)
                entries.append(self.value(entry, (*path, index), inside))
            return entries
        return scalar(node, path)

    def enter(self, node: yaml.Node, path: KeyPath, parents: tuple[yaml.Node, ...]) -> None:
        # Aliases make the data larger and deeper than the text: a few lines can stand for billions of values.
        self.values += 1
        if node in parents:
            raise _RefusedError(node, path, "got an alias inside its own anchor, expected data that ends")
        if len(parents) > MAX_DEPTH:
            raise _RefusedError(node, path, f"got more than {MAX_DEPTH} levels of nesting, expected fewer")
        if self.values > MAX_VALUES:
            raise _RefusedError(node, path, f"got more than {MAX_VALUES} values, expected fewer")

    def mapping(self, node: yaml.MappingNode, path: KeyPath, inside: tuple[yaml.Node, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node, own in self.pairs(node, path, inside):
            line = key_node.start_mark.line + 1
            key = scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                shown = describe(key) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise _RefusedError(key_node, path, f"got {shown} as a key, expected text")
            if key in lines and own:
                text = f"got a duplicate key, also given on line {lines[key]}, expected it once"
                raise _RefusedError(key_node, (*path, key), text)
            if key in lines:
                continue
            lines[key] = line
            self.places[(*path, key)] = self.place(line)
            data[key] = self.value(value_node, (*path, key), inside)
        return data

    def pairs(
        self, node: yaml.MappingNode, path: KeyPath, inside: tuple[yaml.Node, ...]
    ) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """The mapping's own pairs, then those it inherits through `<<`, nearest first."""
        yield from ((key, value, True) for key, value in node.value if key.tag != f"{TAG}merge")
        for key, value in node.value:
            if key.tag == f"{TAG}merge":
                for parent in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(parent, yaml.MappingNode):
                        raise _RefusedError(key, path, "got '<<' before something else, expected an alias of a mapping")
                    self.enter(parent, path, inside)
                    for inherited, content, _ in self.pairs(parent, path, (*inside, parent)):
                        yield inherited, content, False


def scalar(node: yaml.Node, path: KeyPath) -> Any:
    """The value of a scalar node."""
    text: str = node.value
    kind = node.tag.removeprefix(TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(re.sub(r"\.(?=[iInN])", "", text))
    if kind == "int":
        try:
            return int(text)
        except ValueError:
            raise _RefusedError(node, path, f"got an integer of {len(text)} digits, expected fewer") from None
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise _RefusedError(node, path, f"got {describe(text)}, expected text without half a surrogate pair")
    return text
