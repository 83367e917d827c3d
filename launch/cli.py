"""The command `gosgd`: what holds for every subcommand. Imports the command line, and with it all else, when it runs.

Exit codes: 0 done, 2 the user's mistake (one or two lines, no traceback), 1 anything else, 128 + N after signal N.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from launch.errors import DONE, FAILED, MISTAKE, RunFailedError, log_traceback, paths_are_given, say, told
from launch.process import complete, speak_utf8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    if arguments is None:
        speak_utf8()
    complete()
    try:
        code = _run(arguments)
    except SystemExit as end:  # argparse has said what there is to say
        code = end.code if isinstance(end.code, int) else DONE
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        _write_nowhere()
    except OSError as error:
        _write_nowhere()
        say(f"standard output: {error.strerror}")
        return FAILED
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from launch.command_line import understood

        given = understood(arguments)
        with paths_are_given():
            return int(given.function(given))
    except ValueError as error:
        say(error)
        return MISTAKE
    except RunFailedError as error:
        say(error)
        return FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _write_nowhere()
        return DONE
    except Exception as error:
        log = log_traceback()
        where = f"; the traceback is in {log}" if log else ""
        say(f"{type(error).__name__}: {told(error, whole=False)}{where}")
        return FAILED


def _write_nowhere() -> None:
    """Have what is still to be written to standard output vanish: the interpreter would try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
