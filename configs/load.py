"""A YAML file or a recipe, with `key=value` overrides, to a checked and frozen configuration, and back to YAML.

The schema is the caller's: this layer knows none. May import the other modules of configs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from configs.base import Config, suggestion
from configs.errors import ConfigError, Place, clip, describe
from configs.overrides import override
from configs.problems import components, explain
from configs.source import CORE_SCALARS, TAG, parse

Schema = TypeVar("Schema", bound=Config)

RECIPES = Path(__file__).parent


@dataclass(frozen=True)
class Loaded(Generic[Schema]):
    """A configuration as it was given and as it was understood.

    Attributes:
        config: the checked object.
        path: the file it was read from.
        text: that file's text.
        data: its data with the overrides laid over it, before defaults were filled in.
        places: of each section: the file and the line, or the override, that says which component it holds.
    """

    config: Schema
    path: Path
    text: str
    data: dict[str, Any]
    places: dict[str, str]


def recipes() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Raises:
        ConfigError: no recipe has this name.
    """
    if name not in recipes():
        raise ConfigError(f"no recipe called {describe(name)}{suggestion(name, recipes())}; expected {_names()}")
    return RECIPES / f"{name}.yaml"


def load(source: str | Path, overrides: Sequence[str], schema: type[Schema]) -> Loaded[Schema]:
    """Reads, overrides and checks a configuration.

    Args:
        source: a YAML file, or the name of a recipe where no such file exists.
        overrides: `a.b.c=value` each, laid over the file in this order.
        schema: the `Config` class of the whole document.

    Raises:
        ConfigError: the file cannot be read, is not plain YAML, or does not fit the schema.
    """
    path, raw = _read(source)
    text = _decode(path, raw)
    document = parse(text, lambda line: Place(f"{path}:{line}", line))
    if not isinstance(document.data, dict):
        got = "an empty file" if document.data is None else describe(document.data, kind=True)
        keys = ", ".join(schema.model_fields)
        raise ConfigError(f"{document.place(()).label}: got {got}, expected a mapping with keys among {keys}")
    named = components(schema)
    override(document, overrides, named)
    try:
        # JSON mode is as strict, and takes a list for a tuple and text for a path, which YAML cannot spell.
        config = schema.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        raise explain(error, schema, document) from None
    paths = {key: (key, named[key].key) if key in named else (key,) for key in schema.model_fields}
    return Loaded(config, path, text, document.data, {key: document.place(paths[key]).label for key in paths})


def dump(config: Config) -> str:
    """The configuration with every default filled in, as YAML in the schema's order; `load` reads an equal object."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _names() -> str:
    return f"one of {', '.join(recipes())}" if recipes() else "the name of a recipe (none is installed)"


def _read(source: str | Path) -> tuple[Path, bytes]:
    path = Path(source)
    name = str(source)
    try:
        if name in recipes() and not path.is_file():
            path = recipe_path(name)
        return path, path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        hint = suggestion(name, recipes())
        raise ConfigError(
            f"no file and no recipe called {describe(name)}{hint}; expected a path or {_names()}"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{clip(name, 300)}: got a directory, expected a YAML file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{clip(name, 300)}: got no access ({reason}), expected a readable file") from None


def _decode(path: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: got the byte 0x{raw[error.start]:02x}, expected UTF-8 text") from None


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or the loader would read as something else; writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        # Only double quotes keep every line break and control character as it is.
        return self.represent_scalar(f"{TAG}str", text, style=None if text.isprintable() else '"')


for _name, _pattern, _first in CORE_SCALARS:
    _Dumper.add_implicit_resolver(TAG + _name, _pattern, _first)
_Dumper.add_representer(str, _Dumper.text)
