"""Every key of a configuration with its kind, its default and what it means, read off the schema.

Imports trainers.schema. What a key means stands in the docstring of its class, under Attributes or Args, or in the
field's description.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.base import Config, Registry
from trainers.schema import Run

_NAMES = {int: "whole number", float: "number", str: "text", Path: "path", Any: "anything"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Key(NamedTuple):
    """One key.

    Attributes:
        name: as YAML spells it.
        kind: of value.
        default: as YAML, or empty where the key has to be given.
        meaning: empty where name and kind say it all.
    """

    name: str
    kind: str
    default: str
    meaning: str


def keys(config: type[BaseModel]) -> list[Key]:
    """The keys of one component or section, without the one that names the component."""
    meanings = _meanings(config)
    found = []
    for name, field in config.model_fields.items():
        literal = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if name in ("name", "method") and len(literal) == 1:
            continue
        section = _section(field)
        if section is None or _optional(field):
            meaning = field.description or meanings.get(name, "")
            found.append(Key(name, kind(field), _default(field), meaning))
        if section is not None:
            found += [key._replace(name=f"{name}.{key.name}") for key in keys(section)]
    return found


def _registry(metadata: Iterable[Any]) -> Registry[Any] | None:
    return next((one for one in metadata if isinstance(one, Registry)), None)


def _optional(field: FieldInfo) -> bool:
    return type(None) in get_args(field.annotation)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The class of the options below a field that is a section, or may be one; None for values and components."""
    if _registry(field.metadata) is not None:
        return None
    choices = get_args(field.annotation) if _optional(field) else [field.annotation]
    return next((one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)), None)


def kind(field: FieldInfo) -> str:
    """What values a field takes."""
    registry = _registry(field.metadata)
    return f"a {registry.kind}" if registry is not None else _kind(field.annotation, _bounds(field.metadata))


def _bounds(metadata: Iterable[Any]) -> list[str]:
    return [
        f"{word} {_yaml(getattr(one, name))}"
        for one in metadata
        for name, word in _BOUNDS.items()
        if getattr(one, name, None) is not None
    ]


def _kind(annotation: Any, bounds: Iterable[str] = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], bounds)
    alternatives = list(arguments) if origin in (Union, types.UnionType) else [annotation]
    words = [_words(one) for one in alternatives if one is not type(None)]
    nullable = type(None) in alternatives
    if all(words):
        return " | ".join([*(word for choice in words for word in choice), *(["null"] if nullable else [])])
    text = " or ".join(dict.fromkeys(_single(one) for one in alternatives if one is not type(None)))
    text = ", ".join([text, *bounds])
    return text + (", or null" if re.search(r", | of ", text) else " or null") * nullable


def _words(annotation: Any) -> tuple[str, ...]:
    """The words to choose among, where these are all that a field takes."""
    if annotation is bool:
        return ("true", "false")
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _single(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is list:
        return f"list of {_several(arguments[0])}"
    if origin is dict:
        return f"mapping from {_kind(arguments[0])} to {_several(arguments[1])}"
    if origin is not None and issubclass(origin, Callable):  # type: ignore[arg-type]
        return "function"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _NAMES.get(annotation, str(getattr(annotation, "__name__", annotation)))


def _several(annotation: Any) -> str:
    """What the members of a list or mapping are."""
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    if (registry := _registry(metadata)) is not None:
        return f"{registry.kind}s"
    bounds = [bound for one in metadata for bound in _bounds(getattr(one, "metadata", ()))]
    return ", each ".join([re.sub(r"\bnumber\b", "numbers", _kind(annotation)), *bounds])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump()
    return _yaml(value)


def _yaml(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}" if value != int(value) else str(int(value))
        case dict():
            return "{" + ", ".join(f"{name}: {_yaml(one)}" for name, one in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value)


def _meanings(config: type[BaseModel]) -> dict[str, str]:
    """What docstrings say of the keys, those of base classes first."""
    found: dict[str, str] = {}
    for ancestor in reversed(config.__mro__):
        if issubclass(ancestor, Config) and (text := inspect.getdoc(ancestor)) and "__doc__" in ancestor.__dict__:
            found |= _documented(text)
    return found


def _documented(text: str) -> dict[str, str]:
    match = re.search(r"^(?:Attributes|Args):\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    if match is None:
        return {}
    entries = re.split(r"^ {4}(?=\w)", match[1], flags=re.MULTILINE)[1:]
    pairs = (entry.partition(":") for entry in entries)
    return {
        one.strip(): " ".join(meaning.split()) for names, _, meaning in pairs for one in names.split(",") if one.strip()
    }


def about(config: type[BaseModel]) -> str:
    """What the docstring of a component's options says before it lists them."""
    return (inspect.getdoc(config) or "").partition("\nAttributes:")[0].partition("\nArgs:")[0].strip()


def paths() -> list[str]:
    """Every key path of a configuration as an override spells it, such as `exchange.rho`."""
    return sorted(dict.fromkeys(_paths(Run, "")))


def _paths(config: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in config.model_fields.items():
        registry, section = _registry(field.metadata), _section(field)
        if registry is not None:
            for one in registry.names():
                yield from _paths(registry.config(one), f"{prefix}{name}.")
        elif section is not None:
            yield from _paths(section, f"{prefix}{name}.")
        if registry is None and (section is None or _optional(field)):
            yield prefix + name
