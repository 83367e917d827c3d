"""A virtual environment for each library, made once and kept. Imports peers.table and torch.

torch and numpy are pinned to the versions that the benchmark itself runs on, so that no library brings another build.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import report
from benchmarks.peers.table import Row

_INSTALL_S = 900.0
_IMPORT_S = 300.0
_NOTE = "installed.json"


class Environment(NamedTuple):
    """Where an engine's workers run.

    Attributes:
        python: of its workers; None if they cannot run.
        reason: why not.
        versions: of what was installed.
    """

    python: Path | None
    reason: str = ""
    versions: tuple[str, ...] = ()


def prepare(row: Row, folder: Path | None) -> Environment:
    """The environment of an engine, installed now unless it is there."""
    if row.package is None:
        return Environment(Path(sys.executable))
    distribution, module = row.package
    if folder is None:
        return Environment(None, "not installed: give a folder for its environment with --environments DIR")
    place = (folder / row.name).absolute()
    python, note = place / "bin" / "python", place / _NOTE
    wanted = [distribution, f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"]
    if not note.is_file() or json.loads(note.read_text())["wanted"] != wanted:
        report.progress(f"{row.name}: installing {' '.join(wanted)}")
        try:
            place.mkdir(parents=True, exist_ok=True)
            (place / "constraints.txt").write_text("\n".join(wanted) + "\n")
        except OSError as error:
            return Environment(None, f"cannot be installed: {error}")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", str(place)],
            [*pip, "--constraint", str(place / "constraints.txt"), *wanted],
        ):
            if failed := _failure(command, _INSTALL_S):
                return Environment(None, f"cannot be installed: {failed}")
        note.write_text(json.dumps({"wanted": wanted}))
    if failed := _failure([str(python), "-c", f"import {module}"], _IMPORT_S):
        return Environment(None, f"cannot be imported with torch {torch.__version__}: {failed}")
    listed = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True, timeout=_IMPORT_S)
    return Environment(python, versions=tuple(listed.stdout.splitlines()))


def _failure(command: list[str], timeout_s: float) -> str:
    """Run a command; the last line it said if it failed."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return f"not done within {timeout_s:.0f} s"
    lines = [line for line in (ran.stderr or ran.stdout).splitlines() if line.strip()]
    return (lines or [f"exit code {ran.returncode}"])[-1] if ran.returncode else ""
