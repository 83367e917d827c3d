"""What runs have written, as tests read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary_of(folder: Path) -> dict[str, Any]:
    """What the run in `folder`/run ended with."""
    summary: dict[str, Any] = json.loads((folder / "run" / "final" / "summary.json").read_text())
    return summary
