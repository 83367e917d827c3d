"""The house rules as tests: style, types, and imports that point downwards only."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ["configs", "gossip", "regularizers", "trainers", "launch", "benchmarks", "docs", "examples", "tests"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "ruff", "check"],
        [sys.executable, "-m", "ruff", "format", "--check"],
        [sys.executable, "-m", "mypy"],
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"],
    ],
    ids=["ruff", "ruff-format", "mypy", "import-linter"],
)
def test_the_house_is_in_order(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_is_longer_than_four_hundred_lines() -> None:
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert sources
    assert [str(path.relative_to(ROOT)) for path in sources if len(path.read_text().splitlines()) > 400] == []
