"""A run's configuration as the command line means it. Imports configs and trainers.schema."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from configs import ConfigError, Custom, Loaded, import_object, load
from configs.blame import told
from launch.arguments import NOT_RESUMED
from launch.process import let_users_modules_be_found
from trainers.schema import Run


def read(config: str, overrides: Sequence[str], workers: int | None = None) -> Loaded[Run]:
    """A run's configuration, with the number of workers that the command line asks for.

    Raises:
        ValueError: a mistake in the configuration, a component of the user's own that cannot be found, or more workers
            than there are seats.
    """
    let_users_modules_be_found()
    loaded = load(config, overrides, Run)
    run = loaded.config
    for section, path in customs(run):
        try:
            import_object(path)
        except ValueError as error:
            raise ConfigError(f"{loaded.places[section.partition('.')[0]]}: {section}: {error}") from error
    if workers is None or workers == run.run.workers:
        return loaded
    if not 1 <= workers <= run.run.max_workers:
        raise ConfigError(
            f"{loaded.path}: got {workers} workers, expected 1 to run.max_workers = {run.run.max_workers}; raise it or"
            " ask for fewer"
        )
    asked_for = run.run.model_copy(update={"workers": workers})
    return dataclasses.replace(loaded, config=run.model_copy(update={"run": asked_for}))


def run_folder(run: Run, resume: str) -> Path:
    """The run directory: that of `--resume DIR`, else `run.dir`, else runs/NAME; ~ is the home directory.

    Raises:
        ValueError: there is no such home directory.
    """
    given = run.run.dir if resume in (NOT_RESUMED, "auto") else resume
    try:
        return Path(given or Path("runs") / run.name).expanduser()
    except RuntimeError:
        raise ValueError(f"run.dir: got {given}, expected a path: nobody's home directory is known by that ~") from None


def customs(config: BaseModel) -> Iterator[tuple[str, str]]:
    """(section, path) of every component of the user's own."""
    for name, value in config:
        entries: list[Any] = value if isinstance(value, list) else [value]
        for entry in entries:
            if isinstance(entry, Custom):
                yield name, str(getattr(entry, next(iter(type(entry).model_fields))))
            elif isinstance(entry, BaseModel):
                yield from ((f"{name}.{inner}", path) for inner, path in customs(entry))


@contextlib.contextmanager
def blame(loaded: Loaded[Run], section: str | None = None) -> Iterator[None]:
    """Put the file and the line of the section, or the override that it comes from, before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        where = [str(loaded.path)] if section is None else [loaded.places[section], section]
        raise ConfigError(": ".join([*where, told(error)])) from error
