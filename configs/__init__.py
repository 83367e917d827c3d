"""Strict configurations: the base of every schema, the registries of components, and the YAML loader."""

from configs.base import Config, Custom, Registry, import_object, suggestion
from configs.errors import ConfigError
from configs.load import Loaded, dump, load, recipe_path, recipes

__all__ = [
    "Config",
    "ConfigError",
    "Custom",
    "Loaded",
    "Registry",
    "dump",
    "import_object",
    "load",
    "recipe_path",
    "recipes",
    "suggestion",
]
