"""The examples run as their first lines say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gossip.directory import root

ROOT = Path(__file__).parent.parent
WAYS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"],
    "alone": [],
}


@pytest.mark.timeout(110)
@pytest.mark.parametrize(("way", "workers"), [("torchrun", 3), ("alone", 1)])
def test_library_use_ends_with_one_consensus_model_and_a_clean_shared_memory(way, workers):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, *WAYS[way], "examples/library_use.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"consensus of (\d) workers after 400 steps: accuracy (0\.\d+|1\.000)", done.stdout)
    assert len(found) == 1, done.stdout + done.stderr
    assert int(found[0][0]) == workers
    assert float(found[0][1]) > 0.85
    assert not list(root().glob("*gosgd-*"))
