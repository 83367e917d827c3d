"""Whose code an error comes from, for messages about components of the user's own. Imports nothing of this project."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent
_OURS = {_HOME / name for name in ("configs", "gossip", "regularizers", "trainers", "launch", "benchmarks")}
_PYTHON = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
_INSTALLED = {"site-packages", "dist-packages"}


def place_of(error: BaseException) -> str:
    """`" (file, line N)"` of the user's code that an error was raised in, or by a library that it called.

    Empty where there is none, as where we raised it ourselves, or where the error names its place already.
    """
    if isinstance(error, SyntaxError):
        return ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith("<"):  # what Python imports with
            continue
        file = Path(frame.filename).resolve()
        if _OURS & {*file.parents}:
            return ""
        if not (_PYTHON & {*file.parents} or _INSTALLED & {*file.parts}):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def told(error: BaseException) -> str:
    """What an error says, and where in the user's code it comes from."""
    return f"{error}{place_of(error)}"
