"""`key=value` overrides, laid over the data of a file.

May import configs.base, configs.errors and configs.source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.base import Registry
from configs.errors import ConfigError, Document, KeyPath, Place, clip, describe, dotted
from configs.source import parse

# Problems are sorted by line: overrides come after every line of the file.
AFTER_THE_FILE = 10**9


def override(document: Document, overrides: Sequence[str], components: Mapping[str, Registry[Any]]) -> None:
    """Sets `a.b.c=value` in the document, later ones over earlier ones; absent sections are made.

    Another component in a section (`exchange.method=none`) takes over the options that it knows, too; the others of the
    former one go with it.

    Args:
        document: changed in place; `document.data` is a mapping.
        overrides: the value is YAML; a number indexes a list, one past its end appends (`regularizers.0.weight=1e-4`).
        components: what can be in the sections that hold a component.

    Raises:
        ConfigError: an override that is not `key=value`, or that does not fit the structure it meets.
    """
    for order, text in enumerate(overrides):
        _set(document, text, Place(f"override {clip(text, 80)!r}", AFTER_THE_FILE + order), components)


def _set(document: Document, text: str, place: Place, components: Mapping[str, Registry[Any]]) -> None:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{place.label}: got no key and value, expected a.b.c=value")
    section = document.data
    path: KeyPath = ()
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        at: str | int = part if isinstance(section, dict) else _index(section, part, path, place)
        path = (*path, at)
        if following is None:
            _forget(document, path)
            new = parse(value, lambda _: place, path)
            if len(parts) == 2 and (registry := components.get(parts[0])) and parts[1] == registry.key:
                _replace(document, parts[0], section, registry, new.data)
            document.places.update(new.places)
            _put(section, at, new.data)
            return
        inner = section.get(at) if isinstance(section, dict) else (section[at:] or [None])[0]
        if inner is None:
            inner = [] if following == "0" else {}
            _put(section, at, inner)
            document.places[path] = place
        if not isinstance(inner, dict | list):
            raise ConfigError(f"{place.label}: {dotted(path)}: got {describe(inner, kind=True)}, expected a section")
        section = inner


def _replace(document: Document, name: str, section: Any, registry: Registry[Any], new: Any) -> None:
    """Take away what only the former component of a section knows."""
    names, old = registry.names(), section.get(registry.key)
    if old in names and new in names:
        gone = registry.config(old).model_fields.keys() - registry.config(new).model_fields.keys()
        for option in gone & section.keys():
            del section[option]
            _forget(document, (name, option))


def _index(section: list[Any], part: str, path: KeyPath, place: Place) -> int:
    if part.isdecimal() and part.isascii() and len(part) < 6 and int(part) <= len(section):
        return int(part)
    expected = f"an index from 0 to {len(section)} into {describe(section)} ({len(section)} appends)"
    raise ConfigError(f"{place.label}: {dotted(path)}: got {describe(part)}, expected {expected}")


def _put(section: Any, at: str | int, value: Any) -> None:
    if isinstance(section, list) and at == len(section):
        section.append(value)
    else:
        section[at] = value


def _forget(document: Document, path: KeyPath) -> None:
    for known in [known for known in document.places if known[: len(path)] == path]:
        del document.places[known]
