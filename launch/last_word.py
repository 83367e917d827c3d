"""What a launcher says of a job that is over, and its exit code. Imports launch.plan and launch.progress."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from launch.errors import DONE, RunFailedError, say
from launch.plan import Plan
from launch.progress import table

_REQUEUED = (signal.SIGTERM, signal.SIGUSR2)
"""What a scheduler sends before the time is up; a job that has saved ends well."""


def cause(code: int) -> str:
    """How a process ended, from its exit code."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def not_begun(interrupted: int) -> int:
    """Tell the user that a signal came before anything was made; returns the exit code."""
    say("interrupted before any worker was started")
    return _code(interrupted)


def _code(interrupted: int) -> int:
    return DONE if interrupted in _REQUEUED else 128 + interrupted


def last_word(plan: Plan, step: int, others: Sequence[int], interrupted: int, late: Sequence[str]) -> int:
    """Tell the user how the job ended.

    Args:
        plan: of the job.
        step: that every worker has reached.
        others: workers of other launchers that go on.
        interrupted: the signal that ended the job, or 0.
        late: names of those that had to be killed before they had saved.

    Returns:
        The exit code.

    Raises:
        RunFailedError: nobody wrote the final figures.
    """
    directory = plan.directory
    summary = directory.read_summary()
    staying = f"worker{'s' * (len(others) > 1)} {', '.join(map(str, others))} of another launcher"
    if interrupted:
        after = f"the job is left to {staying}" if others else "go on with --resume auto"
        say(f"interrupted after step {step}; {after} (run directory {directory.path})")
        if late:
            grace = plan.run.run.grace_s
            say(f"{', '.join(late)}: killed, not gone within run.grace_s = {grace:g} s of the signal")
        return 128 + interrupted if late else _code(interrupted)
    if summary is None and others:
        print(f"done; {directory.summary} is left to {staying}")
        return DONE
    if summary["interrupted"] if summary else plan.method.collective:
        say(f"stopped after step {step} by a signal to a worker; go on with --resume auto ({directory.path})")
        return DONE
    if summary is None:
        raise RunFailedError(
            f"all workers ended and none of them wrote {directory.summary}, see {directory.logs};"
            " go on with --resume auto"
        )
    print(table(summary, directory.path))
    return DONE
