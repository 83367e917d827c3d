"""Whose code an error comes from, for messages about components of the user's own. Imports nothing of this project."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent
_OURS = {_HOME / name for name in ("configs", "gossip", "regularizers", "trainers", "launch", "benchmarks")}
_PYTHON = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
_INSTALLED = {"site-packages", "dist-packages"}
_FROM_LOADER = "\nOriginal Traceback (most recent call last):\n"
"""In what torch raises for an error in a loader process: the message holds that one's traceback."""
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in ', re.MULTILINE)


def _place_of(error: BaseException) -> str:
    """`" (file, line N)"` of the user's code that an error was raised in, or by a library that it called.

    Empty where there is none, as where we raised it ourselves, or where the error names its place already.
    """
    if isinstance(error, SyntaxError):
        return ""
    frames = [(frame.filename, str(frame.lineno)) for frame in traceback.extract_tb(error.__traceback__)]
    if _FROM_LOADER in str(error):
        frames += _FRAME.findall(str(error))
    for name, line in reversed(frames):
        if name.startswith("<"):  # what Python imports with
            continue
        file = Path(name).resolve()
        if _OURS & {*file.parents}:
            return ""
        if not (_PYTHON & {*file.parents} or _INSTALLED & {*file.parts}):
            return f" ({name}, line {line})"
    return ""


def told(error: BaseException, whole: bool = True) -> str:
    """What an error says, or its first line, and where in the user's code it comes from."""
    text = str(error).strip()
    if _FROM_LOADER in text:  # there the last line is what was said
        text = text.rpartition("\n")[2].removeprefix(f"{type(error).__name__}: ")
    return f"{text if whole else text.partition(chr(10))[0]}{_place_of(error)}"
