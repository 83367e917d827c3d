"""Every key of a configuration with its kind, its default and what it means, read off the schema.

Imports trainers.schema. What a key means stands in the docstring of its class, under Attributes or Args, or in the
field's description.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.base import Config, Custom, Registry
from trainers.schema import Run

_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", Any: "anything"}
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
        if isinstance(inner := field.annotation, type) and issubclass(inner, BaseModel):
            found += [key._replace(name=f"{name}.{key.name}") for key in keys(inner)]
            continue
        meaning = field.description or meanings.get(name, "")
        found.append(Key(name, kind(field), _default(field), meaning))
    return found


def kind(field: FieldInfo) -> str:
    """What values a field takes."""
    registry = next((one for one in field.metadata if isinstance(one, Registry)), None)
    if registry is not None:
        return f"a {registry.kind}"
    bounds = [
        f"{word} {_yaml(getattr(one, name))}"
        for one in field.metadata
        for name, word in _BOUNDS.items()
        if getattr(one, name, None) is not None
    ]
    return ", ".join([_kind(field.annotation), *bounds])


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        registry = next((one for one in arguments[1:] if isinstance(one, Registry)), None)
        return _kind(arguments[0]) if registry is None else registry.kind
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        registry_or_kinds = [_kind(one) for one in arguments if one is not type(None)]
        return " or ".join([*dict.fromkeys(registry_or_kinds), *(["null"] if type(None) in arguments else [])])
    if origin is list:
        return f"list of: {_kind(arguments[0])}"
    if origin is dict:
        return f"mapping from {_kind(arguments[0])} to {_kind(arguments[1])}"
    if origin is not None and issubclass(origin, Callable):  # type: ignore[arg-type]
        return "function"
    return _NAMES.get(annotation, str(getattr(annotation, "__name__", annotation)))


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
        registry = next((one for one in field.metadata if isinstance(one, Registry)), None)
        inner = field.annotation
        if registry is not None:
            for one in registry.names():
                yield from _paths(registry.config(one), f"{prefix}{name}.")
        elif isinstance(inner, type) and issubclass(inner, BaseModel) and not issubclass(inner, Custom):
            yield from _paths(inner, f"{prefix}{name}.")
        else:
            yield prefix + name
