"""A folder with a small job in it that is the working directory of the test."""

import sys

import pytest
from launching import CONFIG, OWN, PARTS


@pytest.fixture
def job(tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "small.yaml").write_text(CONFIG)
    (tmp_path / "own.yaml").write_text(OWN)
    (tmp_path / "parts.py").write_text(PARTS)
    sys.modules.pop("parts", None)
    yield tmp_path
    sys.modules.pop("parts", None)
