"""The command `gosgd`: what holds for every subcommand. Imports the command line, and with it all else, when it runs.

Exit codes: 0 done, 2 the user's mistake (one or two lines, no traceback), 1 anything else, 128 + N after signal N.
"""

from __future__ import annotations

import errno
import io
import locale
import os
import signal
import sys
from collections.abc import Sequence

from launch.errors import DONE, FAILED, MISTAKE, RunFailedError, log_traceback, say, told

_OF_PATHS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
"""What the system says of paths that were given wrong, or cannot be used by this user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    if arguments is None:
        _speak_utf8()
    _complete()
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
        if isinstance(error, OSError) and error.filename is not None and error.errno in _OF_PATHS:
            say(f"got {os.fsdecode(error.filename)}, which cannot be used ({error.strerror}); expected another path")
            return MISTAKE
        log = log_traceback()
        where = f"; the traceback is in {log}" if log else ""
        say(f"{type(error).__name__}: {told(error, whole=False)}{where}")
        return FAILED


def _speak_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale has another encoding: a run's files are the same anywhere."""
    encoding = locale.getpreferredencoding(False).lower().replace("-", "")
    if encoding != "utf8" and os.environ.get("PYTHONUTF8") != "1":  # else asked for in vain, as by python -E
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _complete() -> None:
    """Make up for what this process was started without."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # else files would take the numbers of closed streams
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may have any name
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nobody is told how a child has ended


def _write_nowhere() -> None:
    """Have what is still to be written to standard output vanish: the interpreter would try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
