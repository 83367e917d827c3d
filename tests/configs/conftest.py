"""Files are written where nobody else reads."""

from pathlib import Path

import pytest


@pytest.fixture
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test calls run.yaml is its own."""
    monkeypatch.chdir(tmp_path)
