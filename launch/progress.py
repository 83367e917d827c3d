"""What the user sees of a running job: a bar over all workers' steps, and the table at the end.

Imports gossip and trainers. The bar reads the workers' own counters in shared memory and the evaluations they wrote; no
worker is asked for anything.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm
from typing_extensions import Self

from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import State
from gossip.transports.shared_memory import View
from trainers.run_directory import RunDirectory
from trainers.schema import Run

_PERIOD_S = 0.25


class Progress:
    """A progress bar over the local steps of all workers.

    Args:
        run: tells how many steps there are to do, unless it says epochs; the bar is open-ended then.
        directory: of the run.
        job: where the workers meet.
        workers: M.
    """

    def __init__(
        self, run: Run, directory: RunDirectory, job: JobDirectory, workers: int, total: int | None = None
    ) -> None:
        self._directory = directory
        self._view = View(job)
        per_worker = run.train.steps if total is None else total
        self._bar = tqdm(
            total=per_worker and per_worker * workers,
            unit="step",
            desc=f"{run.exchange.method} x{workers}",
            dynamic_ncols=True,
            mininterval=_PERIOD_S,
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._evaluations = 0

    def update(self) -> None:
        """Read the counters and draw."""
        members = self._view.members()
        now = sum(min(self._view.open(member)[layout.STEP], self._limit()) for member in members)
        alive = sum(self._view.open(m)[layout.STATE] in (State.JOINING, State.ACTIVE) for m in members)
        if now > self._bar.n:
            self._bar.update(now - self._bar.n)
        self._bar.set_postfix_str(", ".join([f"{alive} workers", *self._newest()]), refresh=False)

    def _limit(self) -> int:
        return int(self._bar.total) if self._bar.total else 1 << 62

    def _newest(self) -> list[str]:
        try:
            last = self._directory.metrics.read_bytes().splitlines()[-1]
            line: dict[str, Any] = json.loads(last)
        except (OSError, IndexError, ValueError):
            return []
        return [f"test accuracy {line['test_accuracy']:.4f}", f"loss {line['test_loss']:.4f}"]

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text, file=self._bar.fp)

    def in_background(self) -> Self:
        """Draw from a thread, for a worker that has other things to do."""
        self._thread = threading.Thread(target=self._draw, name="gosgd-progress", daemon=True)
        self._thread.start()
        return self

    def _draw(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            self.update()

    def close(self) -> None:
        """The last state of the bar stays on the screen."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.update()
        self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def table(summary: dict[str, Any], where: Path) -> str:
    """The figures of `final/summary.json` for a person."""

    def figure(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    rows = [
        ("method", summary["method"]),
        ("workers", str(summary["workers"])),
        ("steps a worker", f"{summary['steps']:,}"),
        ("accuracy", figure(summary["accuracy"], ".2%")),
        ("loss", figure(summary["loss"], ".4f")),
        ("samples/s", f"{summary['samples_per_second']:,.0f}"),
        ("seconds", f"{summary['seconds']:.1f}"),
        ("mass", figure(summary["mass_total"], ".6f")),
        ("consensus error", figure(summary["consensus_error"], ".3e")),
        ("run directory", str(where)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    return "\n".join(["consensus model on held-out data", *lines])
