"""The entry of a job's server, `python -m launch.server RUN_DIRECTORY JOB_DIRECTORY [SNAPSHOTS]`: keeps w~.

Started by the launcher, or under torchrun by worker 0. Imports torch only after the process has seen to its end.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.process import SUPERVISOR, end_with_the_supervisor


def main(arguments: Sequence[str]) -> int:
    """Serve until every worker has left; figures go to `server/metrics.jsonl` of the run. Returns the exit code."""
    run_directory, job_directory, *snapshots = arguments
    end_with_the_supervisor(serves=True)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    from gossip.server.process import serve
    from trainers.metrics import Metrics
    from trainers.run_directory import RunDirectory

    supervised = SUPERVISOR in os.environ
    directory = RunDirectory(run_directory)
    folder = Path(*snapshots) if snapshots else directory.snapshots
    metrics = Metrics(directory.server() / "metrics.jsonl", None)
    try:
        serve(job_directory, restarts=supervised, watched=supervised, report=metrics.write, folder=folder)
    finally:
        metrics.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
