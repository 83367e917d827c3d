"""A trace of some training steps, for Perfetto or TensorBoard. Imports configs.base and torch.

The ranges it names: data, forward, backward, optimizer, exchange.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import torch
from pydantic import Field
from torch.profiler import ProfilerActivity, profile, record_function

from configs.base import Config

_log = logging.getLogger("gosgd")
_NOTHING: contextlib.AbstractContextManager[None] = contextlib.nullcontext()


class ProfileOptions(Config):
    """Which steps to trace.

    Attributes:
        start: steps of each worker before the first one traced, counted from its start; let it warm up.
        steps: how many to trace.
    """

    start: int = Field(default=20, ge=0)
    steps: int = Field(default=5, ge=1, le=1000)


class Profile:
    """Traces the steps it is told of, if any.

    Args:
        options: which; None for none.
        path: of the trace, in Chrome's format.
    """

    def __init__(self, options: ProfileOptions | None = None, path: Path | None = None) -> None:
        self._options, self._path = options, path
        self._made = 0
        self._running: profile | None = None

    def begin(self) -> None:
        """Another step begins."""
        options = self._options
        if options is None:
            return
        if self._made == options.start:
            kinds = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                kinds.append(ProfilerActivity.CUDA)
            # There is one trace only, of which torch 2.10 would warn that it is dropped when the next one begins.
            self._running = profile(activities=kinds, acc_events=True)
            self._running.start()
        elif self._made == options.start + options.steps:
            self.end()
        self._made += 1

    def end(self) -> None:
        """Write what has been traced, if that has not been done."""
        if self._running is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        running, self._running, self._options = self._running, None, None
        running.stop()
        assert self._path is not None
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            running.export_chrome_trace(str(self._path))
        except (OSError, RuntimeError) as error:
            _log.warning("%s: no trace was written: %s", self._path, error)
            return
        _log.info("%s: a trace, for ui.perfetto.dev", self._path)

    def range(self, name: str) -> contextlib.AbstractContextManager[object]:
        """A named part of a step."""
        return _NOTHING if self._running is None else record_function(name)
