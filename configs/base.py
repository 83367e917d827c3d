"""Strict configuration base and the registries that map YAML names to components.

Lowest layer: imports nothing else of this project but configs.blame. A component keeps its options as a `Config` beside
itself and registers the pair; the schema of a whole run is assembled from the registries.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, create_model
from typing_extensions import Self

from configs.blame import told

Component = TypeVar("Component")

# No component can be called this: a name with a colon is the user's own.
CUSTOM_TAG = "package.module:name"


class Config(BaseModel):
    """Options of one component: unknown keys are refused, values are checked strictly, instances are frozen."""

    # Infinity is refused in options of ours; a user's own component may have it, and dumping must keep it.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    wording: ClassVar[Callable[[ValidationError, type[Config]], str]]
    """What is wrong with options, in a sentence: configs.problems, which stands on this module, puts it here."""

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Options given as keyword arguments in somebody's own program.

        Raises:
            ValueError: one line that names the first option that is wrong, what was got and what was expected.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            raise ValueError(cls.wording(error, cls)) from None


class Custom(BaseModel):
    """Options of a component of the user's own, addressed as `package.module:attribute`; every key is passed on."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def options(self, key: str) -> dict[str, Any]:
        """Every key the user wrote except the one that names the component."""
        return {name: value for name, value in (self.model_extra or {}).items() if name != key}


def suggestion(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for a near miss among `choices`, whatever its case, else the empty string."""
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def import_object(path: str) -> Any:
    """The object at `package.module:attribute`.

    Raises:
        ValueError: the path is malformed, the module does not import, or it lacks the attribute.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"got {path!r}, expected 'package.module:name'")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r} for {path!r}: {error}; is it on PYTHONPATH?") from error
    except Exception as error:  # whatever a module of the user's does
        raise ValueError(
            f"cannot import {module_name!r} for {path!r}: {type(error).__name__}: {told(error)}"
        ) from error
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ValueError(f"module {module_name!r} has no {attribute!r}") from error
    except Exception as error:  # modules that import their parts when they are asked for them
        raise ValueError(f"cannot get {path!r}: {type(error).__name__}: {told(error)}") from error
    return found


def import_callable(kind: str, path: str, expected: str = "a class or function") -> Any:
    """The user's own class or function at `package.module:attribute`.

    Args:
        kind: what an error message calls it, for example `"model"`.
        path: where it is.
        expected: what it should have been.

    Raises:
        ValueError: it cannot be found, or called.
    """
    found = import_object(path)
    if not callable(found):
        raise ValueError(f"{kind} {path!r} is a {type(found).__name__}, expected {expected}")
    return found


def check_call(kind: str, path: str, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> None:
    """Check that a user's own class or function takes what it is about to be called with.

    Raises:
        ValueError: its signature does not fit.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise ValueError(f"{kind} {path!r}: {error}; got {sorted(options)}, expected options of {signature}") from error


class Registry(Generic[Component]):
    """Names of one kind of component, each with its implementation and its `Config`.

    Args:
        kind: what an error message calls the component, for example `"model"`.
        key: the YAML key that names it (`name`, or `method` for exchange methods).
    """

    def __init__(self, kind: str, key: str = "name") -> None:
        self.kind = kind
        self.key = key
        self._components: dict[str, Component] = {}
        self._configs: dict[str, type[Config]] = {}

    def register(self, config: type[Config]) -> Callable[[Component], Component]:
        """Decorator: adds a component under the name that `config`'s `Literal` field spells."""
        (name,) = get_args(config.model_fields[self.key].annotation)

        def add(component: Component) -> Component:
            assert name not in self._components, f"{self.kind} {name!r} registered twice"
            self._components[name] = component
            self._configs[name] = config
            return component

        return add

    def names(self) -> list[str]:
        """Registered names, sorted."""
        return sorted(self._components)

    def get(self, name: str) -> Component:
        """The component called `name`, or the user's own for `package.module:attribute`.

        Raises:
            ValueError: the name is unknown.
        """
        if name in self._components:
            return self._components[name]
        if ":" in name:
            return import_object(name)  # type: ignore[no-any-return]
        raise ValueError(self.unknown(name))

    def config(self, name: str) -> type[Config]:
        """The `Config` class of a registered name."""
        if name not in self._configs:
            raise ValueError(self.unknown(name))
        return self._configs[name]

    def unknown(self, name: object) -> str:
        """The sentence for a name that is not registered."""
        return (
            f"got unknown {self.kind} {name!r}, expected one of {', '.join(self.names())}"
            f" or 'package.module:name'{suggestion(str(name), self.names())}"
        )

    def field(self) -> Any:
        """The annotation of a schema field that holds one of the registered configs (or a `Custom` one).

        The registry itself is among the annotation's metadata, where the loader looks for names and options.
        """
        key = self.key

        def tag(value: Any) -> Any:
            name = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
            return CUSTOM_TAG if isinstance(name, str) and ":" in name else name

        choices: list[Any] = [Annotated[config, Tag(name)] for name, config in self._configs.items()]
        custom = create_model("Custom", __base__=Custom, **{key: (str, ...)})  # type: ignore[call-overload]
        union: Any = Annotated[custom, Tag(CUSTOM_TAG)]
        for choice in choices:
            union = union | choice
        return Annotated[union, Discriminator(tag), self]


__all__ = ["Annotated", "Config", "Custom", "Field", "Literal", "Registry", "import_object", "suggestion"]
