"""What the benchmarks' reports have in common: the machine, medians with quartiles, tables, bars, JSON, a clean end.

Imports torch only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch


class Spread(NamedTuple):
    """The median of repeated measurements, and their quartiles."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 3, scale: float = 1.0) -> str:
        """`median [first quartile, third quartile]`, each times `scale`."""
        median, low, high = (f"{value * scale:.{digits}f}" for value in self)
        return f"{median} [{low}, {high}]"


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles of at least one value."""
    found = sorted(values)
    assert found, "nothing was measured"
    if len(found) == 1:
        return Spread(found[0], found[0], found[0])
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    return Spread(median, low, high)


class Bar(NamedTuple):
    """A figure that was promised and the one that was measured, for example `Bar("gossip", "<=", 1.03, 1.01)`."""

    what: str
    sense: str
    bar: float
    measured: float | None
    """None: not every run came to the figure."""

    def text(self) -> str:
        """One line; nothing is said about who won."""
        measured = "not reached in every run" if self.measured is None else f"measured {self.measured:.4g}"
        return f"{self.what}: bar {self.sense} {self.bar:.4g}, {measured}"


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was before."""
    return {
        "cpu": _processor(),
        "cpus": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads_per_worker": 1,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Processor")))
    return next(named, platform.machine())


def describe(found: dict[str, Any]) -> str:
    """The machine in one line."""
    load = found["load_average"][0]
    return (
        f"{found['cpu']}, {found['cpus_allowed']} of {found['cpus']} CPUs, torch {found['torch']},"
        f" {found['threads_per_worker']} thread a worker, load {load:.2f} at the start"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first to the left, the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])

    def padded(line: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[0] = line[0].ljust(widths[0])
        return "  ".join(cells).rstrip()

    return "\n".join(padded(line) for line in lines)


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as pages of documentation have it, in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def filled(page: str, made: Callable[[str], str]) -> str:
    """A page with what is made for NAME between each `<!-- NAME -->` and the next `<!-- end -->`."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{made(match[1])}\n<!-- end -->"

    return re.sub(r"<!-- ([\w ]+) -->\n.*?<!-- end -->", fill, page, flags=re.DOTALL)


def progress(text: str) -> None:
    """A line on stderr, so that the tables on stdout can be redirected."""
    print(text, file=sys.stderr, flush=True)


def finish(arguments: argparse.Namespace, found: dict[str, Any], results: Any, bars: Sequence[Bar]) -> None:
    """Print the bars, and write the JSON where one was asked for.

    Args:
        found: the machine, as it was before the first measurement.
    """
    for bar in bars:
        print(bar.text())
    if arguments.json is None:
        return
    settings = {name: value for name, value in vars(arguments).items() if name != "json"}
    document = {
        "machine": found,
        "settings": {name: _told(value) for name, value in settings.items()},
        "bars": [bar._asdict() for bar in bars],
        "results": results,
    }
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def _told(setting: Any) -> Any:
    # Where a file lies on one machine says nothing to those who read the figures.
    if isinstance(setting, Path) or (isinstance(setting, str) and Path(setting).is_absolute()):
        return Path(setting).name
    return setting


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; Ctrl-C and SIGTERM unwind it, so that its processes and shared memory are given back."""

    def terminated(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminated)
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
