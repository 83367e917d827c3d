"""What the schema found wrong, in sentences that name file, line, key, what was got and what was expected.

May import configs.base and configs.errors.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from configs.base import Config, Custom, Registry, suggestion
from configs.errors import ConfigError, Document, KeyPath, describe, dotted, one_line

MISSING = "got nothing"

# Keyed by pydantic's error types; the braces are filled from the error's context.
EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "none_required": "null",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number >= {ge}",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number <= {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
}


class _Problem(NamedTuple):
    path: KeyPath
    text: str
    expected: str = ""
    hint: str = ""

    def sentence(self) -> str:
        return f"{self.text}, expected {self.expected}{self.hint}" if self.expected else self.text

    def whole(self) -> str:
        return f"{dotted(self.path)}: {self.sentence()}" if self.path else self.sentence()


class _Spot(NamedTuple):
    """A place in the schema: its key path, without the names pydantic gives to members of unions, and what it holds."""

    path: KeyPath
    annotation: Any
    registry: Registry[Any] | None


def explain(error: ValidationError, schema: type[Config], document: Document) -> ConfigError:
    """The `ConfigError` of a refused document, its problems in the order of the file's lines."""
    lines = []
    for problem in _problems(error, schema):
        place = document.place(problem.path)
        lines.append((place.line, f"{place.label}: {problem.whole()}"))
    return ConfigError(*(line for _, line in sorted(lines, key=lambda entry: entry[0])))


def first(error: ValidationError, schema: type[Config]) -> str:
    """What is first found wrong with options that come from no document."""
    return one_line(_problems(error, schema)[0].whole())


Config.wording = staticmethod(first)


def _problems(error: ValidationError, schema: type[Config]) -> list[_Problem]:
    found: dict[KeyPath, _Problem] = {}
    for details in error.errors(include_url=False):
        problem = _problem(details, schema)
        known = found.get(problem.path)
        if known and known.expected and problem.expected:  # members of one union, each refusing the same value
            hint = known.hint or problem.hint
            problem = problem._replace(text=known.text, expected=f"{known.expected} or {problem.expected}", hint=hint)
        found[problem.path] = problem
    # A required key that is merely misspelt would otherwise be reported twice.
    misspelt = {(path[:-1], problem.hint) for path, problem in found.items() if problem.hint}

    def told_already(path: KeyPath, problem: _Problem) -> bool:
        name = str(path[-1]) if path else ""
        return problem.text == MISSING and (path[:-1], suggestion(name, [name])) in misspelt

    return [problem for path, problem in found.items() if not told_already(path, problem)]


def _problem(details: Mapping[str, Any], schema: type[Config]) -> _Problem:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    spot = _follow(schema, details["loc"])
    if kind in ("value_error", "assertion_error"):
        return _Problem(spot.path, str(context["error"]))
    if kind == "missing":
        return _Problem(spot.path, MISSING, "a value (the key is required)")
    if kind == "extra_forbidden":
        fields = _fields(_follow(schema, details["loc"][:-1]).annotation)
        name = str(spot.path[-1])
        return _Problem(spot.path, "got an unknown key", f"one of {', '.join(fields)}", suggestion(name, fields))
    if spot.registry and kind in ("union_tag_invalid", "union_tag_not_found"):
        return _component(spot.path, value, spot.registry)
    if kind not in EXPECTED:
        message = details["msg"]
        start = "Input should be "
        expected = message.removeprefix(start)
        got = f"got {describe(value, kind=True)}"
        return (
            _Problem(spot.path, got, expected)
            if message.startswith(start)
            else _Problem(spot.path, f"{got}: {message}")
        )
    expected = EXPECTED[kind].format(**{name: _number(limit) for name, limit in context.items()})
    hint = ""
    if kind == "literal_error" and isinstance(value, str):
        hint = suggestion(value, expected.split("'")[1::2])
    if kind == "string_type" and isinstance(value, bool | int | float):
        hint = "; put it in quotes"
    return _Problem(spot.path, f"got {describe(value, kind=kind.endswith('_type'))}", expected, hint)


def _component(path: KeyPath, value: Any, registry: Registry[Any]) -> _Problem:
    """A section whose component is unknown, or that does not name one."""
    key, names = registry.key, registry.names()
    if not isinstance(value, dict):
        name = value if value in names else names[0]
        return _Problem(path, f"got {describe(value, kind=True)}", f"a mapping such as {{{key}: {name}}}")
    if isinstance(value.get(key), str):
        return _Problem((*path, key), registry.unknown(value[key]))
    expected = f"one of {', '.join(names)} or 'package.module:name'"
    if key in value:
        return _Problem((*path, key), f"got {describe(value[key])}", expected)
    hint = next((f"; did you mean {key!r} where it says {near!r}?" for near in value if suggestion(near, [key])), "")
    return _Problem(path, f"got no {key!r}", expected, hint)


def _follow(schema: type[Config], loc: KeyPath) -> _Spot:
    """Walks down the schema along pydantic's `loc`, leaving out of the path the parts that name a union's member."""
    path: KeyPath = ()
    annotation, registry = _peel(schema)
    for part in loc:
        if registry:
            known = part in registry.names()
            annotation, registry = (registry.config(str(part)) if known else Custom), None
            continue
        arguments = get_args(annotation)
        if get_origin(annotation) in (Union, types.UnionType):
            members = [member for member in arguments if getattr(member, "__name__", None) == part]
            annotation, registry = _peel(members[0] if members else Any)
            continue
        path = (*path, part)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation, registry = _peel(field.annotation, field.metadata) if field else (Any, None)
        else:
            entries = arguments[-1:] if get_origin(annotation) is dict else arguments[:1]
            annotation, registry = _peel(entries[0] if entries else Any)
    return _Spot(path, annotation, registry)


def components(schema: type[Config]) -> dict[str, Registry[Any]]:
    """The sections that hold a component, with the registry of those."""
    found = {name: _peel(field.annotation, field.metadata)[1] for name, field in schema.model_fields.items()}
    return {name: registry for name, registry in found.items() if registry}


def _peel(annotation: Any, metadata: Any = ()) -> tuple[Any, Registry[Any] | None]:
    """The annotation without `Annotated` and `| None`, and the registry whose components it holds, if any."""
    while True:
        registry = next((mark for mark in metadata if isinstance(mark, Registry)), None)
        if registry:
            return annotation, registry
        if get_origin(annotation) is Annotated:
            annotation, *metadata = get_args(annotation)
            continue
        members = [member for member in get_args(annotation) if member is not type(None)]
        if get_origin(annotation) not in (Union, types.UnionType) or len(members) != 1:
            return annotation, None
        annotation, metadata = members[0], ()


def _fields(annotation: Any) -> list[str]:
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _number(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit
