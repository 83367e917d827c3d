"""Workers of a job that use an exchange method as a training loop would, each in a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.remote import Handle, answers, ask_all, in_process_of_its_own
from torch import nn

import gossip
from gossip.directory import JobDirectory
from gossip.ledger import audit
from gossip.mass import Ledger
from gossip.replay import Replay, read
from gossip.server.serve import Server
from gossip.transports.view import View


def make_model(kind: str) -> nn.Module:
    """The same weights in every process."""
    torch.manual_seed(7)
    if kind == "batch_norm":
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def batch(rank: int, step: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """What worker `rank` sees at `step`."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator)


class Worker:
    """One worker: an exchange around a small model, and methods that a test calls from elsewhere.

    Args:
        method: of exchange, with its `options`.
        kind: of model.
        spread: how far the workers' initial weights are from each other.
        wrap: whether to wrap the model as a training loop should.
        trace: folder to record every update and move in.
    """

    def __init__(
        self,
        method: str,
        rank: int,
        options: dict[str, Any],
        kind: str = "mlp",
        spread: float = 0.0,
        wrap: bool = True,
        trace: Path | None = None,
    ) -> None:
        model = make_model(kind)
        self.rank = rank
        torch.manual_seed(rank)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
        self.exchange = gossip.build(method, model, seed=3, **options)
        if trace is not None:
            self.exchange.record(trace, updates=True)
        self.model = model
        self.wrapped = self.exchange.wrap(model) if wrap else model

    def start(self, steps: int = 0) -> bool:
        return self.exchange.start(steps)

    def resume(self, value: float, version: int) -> None:
        """Load the state of a method with a server: w~ with `value` everywhere, after so many moves."""
        center = torch.full_like(self.exchange.flat.vector, value)
        self.exchange.load_state_dict({"center": center, "versions": [version]})

    def perturb(self) -> None:
        """Go somewhere else than the other workers."""
        torch.manual_seed(100 + self.rank)
        self.exchange.flat.vector.add_(torch.randn(self.exchange.flat.dimension))

    def fill_buffers(self, value: float) -> None:
        for buffer in self.model.buffers():
            buffer.fill_(value)

    def buffers(self) -> dict[str, list[float]]:
        return {name: buffer.flatten().tolist() for name, buffer in self.model.named_buffers()}

    def steps(self, count: int, lr: float, pause_s: float = 0.0) -> int:
        """Local SGD steps on this worker's own data, each with its exchange."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr)
        for _ in range(count):
            x, y = batch(self.rank, self.exchange.steps)
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.wrapped(x), y).backward()
            optimizer.step()
            self.exchange.step()
            if pause_s:
                time.sleep(pause_s)
        return self.exchange.steps

    def drift(self, updates: np.ndarray, pause_s: float = 0.0) -> np.ndarray:
        """Steps that add the given updates [n, D] to the weights; returns the weights after each exchange [n, D]."""
        after = []
        for update in torch.from_numpy(updates):
            self.exchange.flat.vector.add_(update)
            self.exchange.step()
            after.append(self.vector())
            if pause_s:
                time.sleep(pause_s)
        return np.stack(after)

    def central(self) -> np.ndarray | None:
        center = self.exchange.central()
        return None if center is None else center.double().numpy()

    def still_steps(self, seconds: float) -> int:
        """Exchange without local steps for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.exchange.step()
            time.sleep(0.0005)
        return self.exchange.steps

    def vector(self) -> np.ndarray:
        return self.exchange.flat.vector.double().numpy()

    def mass(self) -> int:
        return self.exchange.mass

    def stats(self) -> dict[str, float | None]:
        return self.exchange.stats()

    def publish(self) -> None:
        self.exchange.publish()

    def expects(self, seat: int) -> bool:
        """Whether this worker thinks that another one has unread mail."""
        return any(
            self.exchange.outbox.expects(peer) for peer in self.exchange.outbox.peers if peer.member.seat == seat
        )

    def change_rate(self, rho: float) -> None:
        self.exchange.rho = rho

    def attend(self) -> None:
        """Read the mail without a step."""
        self.exchange._duties.attend()

    def published(self) -> list[tuple[int, int, np.ndarray]]:
        """(seat, step, weights) of everybody's newest snapshot."""
        return [(one.member.seat, one.step, one.vector.double().numpy()) for one in self.exchange.published()]

    def total_done(self) -> int:
        return self.exchange.total_done()

    def lowest(self) -> bool:
        return self.exchange.lowest()

    def close(self, timeout_s: float = 60.0, stay: bool = True) -> bool:
        return self.exchange.close(timeout_s, stay)


class CenterServer:
    """The process that keeps the central variable, as a launcher would start it."""

    def __init__(self, directory: str) -> None:
        self.server = Server(JobDirectory.open(directory), restarts=True)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return not self.thread.is_alive()


def make_worker(method: str, options: dict[str, Any], arguments: dict[str, Any], rank: int) -> Worker:
    """A `Worker`, or what `arguments` say with `worker`."""
    rest = {name: value for name, value in arguments.items() if name != "worker"}
    made: Worker = arguments.get("worker", Worker)(method, rank, options, **rest)
    return made


class Team:
    """All workers of one job.

    Args:
        method: of exchange.
        workers: M.
        options: of the method.
        absent: ranks that are not started now.
        arguments: further ones of each `Worker`.
    """

    def __init__(
        self, method: str, workers: int, options: dict[str, Any], absent: Sequence[int] = (), **arguments: Any
    ) -> None:
        self.make = partial(make_worker, method, options, arguments)
        self.size = workers
        self.directory = JobDirectory.create(workers, workers)
        self.everybody: list[Handle] = []
        self.server: Handle | None = None
        if gossip.METHODS.config(method).of(**options).serving == "process":
            self.serve()
        self.workers = [self.run(rank) for rank in range(workers) if rank not in absent]
        answers(self.workers)

    def serve(self) -> None:
        """Start the process of the server; another one if there was one."""
        self.server = in_process_of_its_own(CenterServer, str(self.directory.path))
        self.server.answer()
        self.everybody.append(self.server)

    def run(self, rank: int) -> Handle:
        """Start one worker's process."""
        environment = {
            "GOSGD_JOB": str(self.directory.path),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.size),
        }
        handle = in_process_of_its_own(self.make, rank, **environment)
        self.everybody.append(handle)
        return handle

    def ask(self, name: str, *arguments: Any) -> list[Any]:
        """Call a method of all workers at the same time."""
        return ask_all(self.workers, name, *arguments)

    def vectors(self) -> np.ndarray:
        """[M, D]."""
        return np.stack(self.ask("vector"))

    def audit(self) -> Ledger:
        """The ledger, read from outside."""
        return audit(View(self.directory), self.size)

    def last(self, outcomes: Sequence[bool]) -> Handle:
        """The one worker whose `close` was True."""
        assert sorted(outcomes) == [False] * (len(self.workers) - 1) + [True]
        return self.workers[outcomes.index(True)]

    def end(self) -> None:
        """Reap everything."""
        for handle in self.everybody:
            handle.end()
        self.directory.remove()


def replayed(folder: Path) -> Replay:
    """What a run whose trace lies in `folder` comes to as a product of matrices."""
    replay = Replay(read(folder))
    replay.run()
    return replay
