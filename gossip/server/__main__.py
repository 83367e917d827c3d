"""A server of the central variable as a process of its own: `python -m gossip.server JOB_DIRECTORY [SNAPSHOTS]`.

Started by worker 0 where no launcher does; standard input comes to its end when that worker does.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from gossip.server.process import serve

if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s server: %(message)s", level=logging.INFO)
    job, *folder = sys.argv[1:]
    serve(job, restarts=False, watched=False, folder=Path(folder[0]) if folder else None)
