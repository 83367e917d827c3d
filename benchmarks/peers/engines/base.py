"""What an engine is. Imports torch only.

An engine's module has a function `build(model, place)`, and `serve(place)` where its library needs a server beside the
workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Place:
    """One worker's place in a job, and what all engines are told alike.

    Attributes:
        variant: which of a module's engines is asked for.
        period: steps between two meetings, where a library lets one choose; the rate of those that meet at random is
            its inverse.
        folder: of the job, for sockets and addresses.
        server: address that `serve` told, where there is one.
    """

    variant: str
    rank: int
    workers: int
    batch_size: int
    learning_rate: float
    period: int
    folder: Path
    server: str = ""

    def optimizer(self, parameters: object) -> torch.optim.Optimizer:
        """The optimizer of every engine."""
        return torch.optim.SGD(parameters, lr=self.learning_rate, fused=True)  # type: ignore[arg-type]

    def process_group(self) -> None:
        """Join torch.distributed's default group."""
        meeting = f"file://{self.folder / 'rendezvous'}"
        timeout = timedelta(seconds=_TIMEOUT_S)
        dist.init_process_group("gloo", init_method=meeting, rank=self.rank, world_size=self.workers, timeout=timeout)

    def tell(self, name: str, text: str) -> None:
        """Tell the other processes of the job something, such as an address."""
        half = self.folder / f"{name}.half"
        half.write_text(text)
        half.rename(self.folder / name)

    def hear(self, name: str) -> str:
        """What one of them told."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not (self.folder / name).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody told {name} within {_TIMEOUT_S:.0f} s")
            time.sleep(0.01)
        return (self.folder / name).read_text()


def _nothing() -> None:
    pass


@dataclass
class Engine:
    """A training loop's parts: `module(x)`, backward, `optimizer.step()`, `exchange()`.

    Attributes:
        module: to be called.
        optimizer: None where the library steps its own in the backward pass.
        exchange: called after every step.
        met: how often this worker's weights have been mixed with another's so far.
        together: whether workers meet in operations that all must call, so that each makes equally many steps.
        close: leave the job.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer | None
    exchange: Callable[[], object] = _nothing
    met: Callable[[], int] = int
    together: bool = False
    close: Callable[[], object] = _nothing
