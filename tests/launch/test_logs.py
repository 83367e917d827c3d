"""Where output goes: to the next attempt's files, whatever has been deleted, or nowhere; a job does not end for it."""

import os
from pathlib import Path

from launch.logs import Logs


def test_attempts_are_counted_on_when_early_ones_are_deleted(tmp_path):
    first, second = (Logs(tmp_path, "worker-0") for _ in range(2))
    for path in (first.stdout, first.stderr):
        path.unlink()
    first.folder.rmdir()
    assert second.folder.name == "attempt-1"
    assert Logs(tmp_path, "worker-0").folder.name == "attempt-2"


def test_where_no_file_can_be_made_output_goes_nowhere(tmp_path):
    (tmp_path / "worker-0").touch()  # a disk without room for a folder fails likewise
    logs = Logs(tmp_path, "worker-0")
    assert logs.stdout == logs.stderr == Path(os.devnull)
