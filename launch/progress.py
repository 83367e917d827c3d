"""What the user sees of a running job: a bar over all workers' steps, and the table at the end.

Imports launch.plan and gossip. The bar reads the workers' own counters in shared memory and the evaluations they wrote;
no worker is asked for anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm
from typing_extensions import Self

from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import State, Words
from gossip.transports.view import View
from launch.plan import Plan

_PERIOD_S = 0.5
_PLAIN_PERIOD_S = 30.0
_RATE_OVER_S = 10.0


class Progress:
    """A progress bar over the local steps of all workers; a line now and then where nobody watches a terminal.

    Args:
        plan: of the job.
        job: where the workers meet.
        ranks: of the workers to show; those the job is founded with by default.
    """

    def __init__(self, plan: Plan, job: JobDirectory, ranks: Sequence[int] | None = None) -> None:
        self._plan = plan
        self._ranks = range(plan.workers) if ranks is None else ranks
        self._goal = plan.workers * plan.steps  # of the job, where it stops at a total
        self._total = self._goal if self._by_total() else len(self._ranks) * plan.steps
        self._view = View(job)
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty() and not plan.detached:
            wide = os.get_terminal_size(sys.stderr.fileno()).columns  # 0 where there is a terminal but no screen
            self._bar = tqdm(
                total=self._total,
                unit="step",
                desc=f"{plan.run.exchange.method} x{len(self._ranks)}",
                dynamic_ncols=wide > 0,
                ncols=None if wide else 80,
                nrows=None if wide else 20,
            )
        self._drawn = time.monotonic()
        self._done: deque[tuple[float, int]] = deque()
        self._metrics = plan.directory.metrics
        self._read = self._metrics.stat().st_size if self._metrics.exists() else 0
        self._newest = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, job: JobDirectory) -> None:
        """Look at the job that takes the place of the last one, whose workers all had to be restarted."""
        self._view = View(job)
        self._done.clear()

    def step(self) -> int:
        """The step that every worker has reached; 0 before the last of them has begun."""
        words = self._own()
        return min((own[layout.STEP] for own in words), default=0) if len(words) == len(self._ranks) else 0

    def ending(self) -> bool:
        """Whether a worker has left at the end of its training: who comes now would find nobody to join."""
        members = map(self._view.open, self._view.members())
        gone = [words for words in members if words[layout.FINISHED] or words[layout.STATE] == State.GONE]
        if self._by_total():
            return bool(gone) and self._ever() >= self._goal
        return any(words[layout.STEP] >= self._plan.steps for words in gone)

    def came(self, rank: int) -> bool:
        """Whether a worker has ever taken its seat."""
        return any(member.seat == rank for member in self._view.members())

    def early(self, rank: int) -> bool:
        """Whether a worker that has ended well was taken out of the job, while others are in it."""
        members = {member: self._view.open(member) for member in self._view.members()}
        taken_out = any(
            words[layout.FINISHED] == layout.TAKEN_OUT for one, words in members.items() if one.seat == rank
        )
        return taken_out and any(words[layout.STATE] != State.GONE for words in members.values())

    def _by_total(self) -> bool:
        return self._plan.run.train.stop == "total"

    def _own(self) -> list[Words]:
        return [self._view.open(member) for member in self._view.members() if member.seat in self._ranks]

    def update(self) -> None:
        """Read the counters and draw, if the last time was not just now."""
        now = time.monotonic()
        if now - self._drawn >= (_PLAIN_PERIOD_S if self._bar is None else _PERIOD_S):
            self._drawn = now
            with contextlib.suppress(OSError):  # the terminal may have been closed
                self._draw(now)

    def _made(self) -> int:
        return sum(self._view.open(member)[layout.DONE] for member in self._view.everybody())

    def _ever(self) -> int:
        everybody = map(self._view.open, self._view.everybody())
        return sum(words[layout.DONE] + words[layout.EARLIER] for words in everybody)

    def _position(self) -> int:
        if self._by_total():
            return min(self._ever(), self._goal)
        return sum(min(words[layout.STEP], self._plan.steps) for words in self._own())

    def _draw(self, now: float) -> None:
        self._done.append((now, self._made()))
        while now - self._done[0][0] > _RATE_OVER_S and len(self._done) > 2:
            self._done.popleft()
        (then, before), (_, after) = self._done[0], self._done[-1]
        rate = (after - before) * self._plan.samples / (now - then) if now > then else 0.0
        figures = ", ".join(part for part in (f"{rate:,.0f} samples/s" if rate else "", self._evaluation()) if part)
        position = self._position()
        if self._bar is None:
            self.say(f"{position:,} of {self._total:,} steps, {figures}".rstrip(", "))
            return
        self._bar.n = position
        self._bar.set_postfix_str(figures, refresh=True)

    def _evaluation(self) -> str:
        """The newest evaluation of this run; what an earlier one wrote to the same file is left out."""
        try:
            with self._metrics.open("rb") as file:
                file.seek(self._read)
                whole, _, _ = file.read().rpartition(b"\n")
            if whole:
                self._read += len(whole) + 1
                line: dict[str, Any] = json.loads(whole.rpartition(b"\n")[2])
                self._newest = evaluated(line)
        except (OSError, ValueError, KeyError):  # not there yet, or nothing that could be shown
            pass
        return self._newest

    def say(self, text: str) -> None:
        """A line above the bar."""
        with contextlib.suppress(OSError):
            tqdm.write(text, file=sys.stderr)

    def in_background(self) -> Self:
        """Draw from a thread, for a worker that has other things to do."""
        self._thread = threading.Thread(target=self._keep_drawing, name="gosgd-progress", daemon=True)
        self._thread.start()
        return self

    def _keep_drawing(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            self.update()

    def close(self) -> None:
        """The last state of the bar stays on the screen."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._finish(self._bar)

    def _finish(self, bar: tqdm[Any]) -> None:
        self._draw(time.monotonic())
        summary = self._plan.directory.read_summary()
        if summary is not None and not summary["interrupted"]:
            bar.n = self._total  # the counters may be gone with the job's directory
            bar.refresh()
        bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def evaluated(line: dict[str, Any]) -> str:
    """An evaluation, as one line of metrics tells it, for a person."""
    loss = line["test_loss"]
    return f"test accuracy {line['test_accuracy']:.2%}, loss {'not finite' if loss is None else format(loss, '.4f')}"


def table(summary: dict[str, Any], where: Path) -> str:
    """The figures of `final/summary.json` for a person."""

    def figure(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    diverged = "not finite: training has diverged; lower optimizer.lr or set train.clip"
    rows = [
        ("method", summary["method"]),
        ("workers", str(summary["workers"])),
        ("steps a worker", f"{summary['steps']:,}"),
        ("accuracy", figure(summary["accuracy"], ".2%")),
        ("loss", diverged if summary.get("diverged") else figure(summary["loss"], ".4f")),
        ("samples/s", f"{summary['samples_per_second']:,.0f}"),
        ("seconds", f"{summary['seconds']:.1f}"),
        ("mass", figure(summary["mass_total"], ".6f")),
        ("consensus error", figure(summary["consensus_error"], ".3e")),
        ("run directory", str(where)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    return "\n".join(["consensus model on held-out data", *lines])
