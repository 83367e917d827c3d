"""A small file system of its own for a test; mounting one takes root, and a test that cannot is skipped."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def disk(kibibytes: int) -> Iterator[Path]:
    """An empty folder with room for so much."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder]
        mounted = shutil.which("mount") and subprocess.run(command, capture_output=True, check=False, timeout=10)
        if not mounted or mounted.returncode:
            pytest.skip("mounting a small file system takes root")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True, timeout=10)
