"""The entry of one worker: `python -m launch.train CONFIG [key=value ...]` under torchrun, or started by `gosgd train`.

Imports launch.worker, and with it torch, only after the process has seen to its end and to where modules are found.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from launch.arguments import Parser, add_config, add_resume
from launch.process import (
    complete,
    end_with_the_supervisor,
    heed_signals,
    importing,
    leave,
    let_users_modules_be_found,
    speak_utf8,
    tidy_up,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Be one worker. Returns the exit code: 0 done, 2 the user's mistake; any other failure is raised."""
    if arguments is None:
        speak_utf8()
        complete()
    parser = Parser(prog="launch.train", description="One worker of a job, under torchrun.")
    add_config(parser)
    add_resume(parser)
    given = parser.parse_intermixed_args(arguments)
    heed_signals()
    try:
        with importing():
            end_with_the_supervisor()
            let_users_modules_be_found()
            from launch.worker import work
        return work(given.config, given.overrides, given.resume)
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # sent again, it would kill the interpreter while that ends
        tidy_up(Path(given.config).parent)


if __name__ == "__main__":
    leave(main())
