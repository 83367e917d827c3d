"""`gosgd consensus --real`: the consensus error of live worker processes whose gradients are random.

Each worker is a process with the exchange that `gossip.build` makes, around a model of D elements. All make a step when
they are told to, and the next when all have: the pace is that of the round clock, and nothing waits within a step but
what the method itself waits for. Imports gossip; children import torch.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import gossip
from gossip.directory import JobDirectory
from gossip.job import Job
from gossip.world import World
from launch.consensus_cases import Case
from launch.consensus_curve import Curve
from launch.errors import RunFailedError

METHODS = ("none", "fully_sync", "persyn", "easgd", "easgd_async", "downpour", "gosgd", "gosgd_adaptive")
_SERVED = ("easgd_async", "downpour")
_MOST_WORKERS = 64
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_PATIENCE_S = 120.0
_GRACE_S = 2.0


class RandomModel(nn.Module):
    """D weights whose gradient is whatever it is given."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dimension))

    def forward(self, update: Tensor) -> Tensor:
        """w . update [D]."""
        return (self.weight * update).sum()


class Worker:
    """What runs in a process: one exchange after another."""

    def __init__(self, rank: int, world: World) -> None:
        self._rank, self._world = rank, world

    def build(self, case: Case, directory: JobDirectory) -> None:
        """Begin with a method, at the consensus w = 0."""
        world = self._world
        job = Job(self._rank, world.workers, self._rank, directory, supervised=True)
        options = case.config.model_dump(exclude={"method"}, exclude_none=True)
        if case.method in _SERVED:
            options["server"] = "sharded"  # w~ lives in threads of the workers: no further process
        self._model = RandomModel(world.dimension)
        self._exchange = gossip.build(case.config.method, self._model, job=job, seed=world.seed, **options)  # type: ignore[attr-defined]
        self._wrapped = self._exchange.wrap(self._model)
        self._generator = np.random.default_rng([world.seed, self._rank])
        self._exchange.start()

    def step(self) -> bytes:
        """One random update and its exchange; returns the weights."""
        world = self._world
        noise = world.deviation * self._generator.standard_normal(world.dimension, dtype=np.float32)
        self._model.zero_grad()
        self._wrapped(torch.from_numpy(noise.astype(np.float32))).backward()
        gradient = self._model.weight.grad
        assert gradient is not None
        with torch.no_grad():
            self._model.weight.add_(gradient)
        self._exchange.step()
        return bytes(self._model.weight.detach().numpy())

    def close(self) -> None:
        """Leave the job."""
        self._exchange.close()


class Crew:
    """All worker processes.

    Args:
        world: settings; M of them are started.
    """

    def __init__(self, world: World) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gossip", "launch.consensus_live"])
        # Inherited by the workers: a Ctrl-C that finds one before it has seen to its signals does nothing.
        resource_tracker.ensure_running()  # here, because its start ends with SIGINT unblocked
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._processes = []
        self._ends: list[Connection] = []
        try:
            for rank in range(world.workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, rank, world), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._ends.append(ours)
        except BaseException:
            self.end()
            raise

    def call(self, name: str, *arguments: Any) -> list[Any]:
        """Call a method in all workers at the same time; results by rank.

        Raises:
            RunFailedError: one failed, died, or gave no answer.
        """
        for rank, end in enumerate(self._ends):
            try:
                end.send((name, arguments))
            except OSError:
                raise RunFailedError(f"live worker {rank} died") from None
        pending: dict[Any, int] = {end: rank for rank, end in enumerate(self._ends)}
        results: dict[int, Any] = {}
        deadline = time.monotonic() + _PATIENCE_S
        while pending:
            ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RunFailedError(f"no answer from live workers {sorted(pending.values())} in {_PATIENCE_S:.0f} s")
            for answered in ready:
                rank = pending.pop(answered)
                try:
                    done, results[rank] = cast(Connection, answered).recv()
                except (EOFError, OSError):
                    raise RunFailedError(f"live worker {rank} died") from None
                if not done:
                    raise RunFailedError(f"live worker {rank} failed: {results[rank]}")
        return [results[rank] for rank in sorted(results)]

    def end(self) -> None:
        """End every process."""
        for end in self._ends:
            end.close()
        deadline = time.monotonic() + _GRACE_S
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self._processes:
            process.kill()
            process.join()


def check(methods: Sequence[str], world: World) -> None:
    """Refuse what live processes cannot do.

    Raises:
        ValueError: a method, the clock or the number of workers.
    """
    other = [name for name in methods if name not in METHODS]
    if other:
        raise ValueError(f"--real: got --methods {other[0]}, expected some of {', '.join(METHODS)}")
    if world.clock != "round":
        raise ValueError(f"--real: got --clock {world.clock}, expected round: live workers step all at the same pace")
    if world.workers > _MOST_WORKERS:
        raise ValueError(f"--real: got {world.workers} workers, expected at most {_MOST_WORKERS} processes")


def measure(cases: Sequence[Case], world: World) -> list[Curve]:
    """One live run of each case; the error is taken after every step."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONSAFEPATH"] = "1"  # no file of the working directory shall hide ours
    with _terminated():
        crew = Crew(world)
        try:
            return [_measured(crew, case, world) for case in cases]
        finally:
            crew.end()


def _measured(crew: Crew, case: Case, world: World) -> Curve:
    directory = JobDirectory.create(world.workers, world.workers)
    try:
        crew.call("build", case, directory)
        errors = np.array([_error(crew.call("step")) for _ in range(world.steps)])
        crew.call("close")
    finally:
        directory.remove()
    steps: NDArray[np.int64] = np.arange(1, world.steps + 1)
    return Curve(case, steps, errors, None, None, float(errors[world.steps // 2 :].mean()), None)


def _error(weights: list[bytes]) -> float:
    w = np.stack([np.frombuffer(one, np.float32) for one in weights]).astype(np.float64)
    return float(((w - w.mean(0)) ** 2).sum())


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM unwinds, as Ctrl-C does, so that processes end and shared memory is given back."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(end: Connection, rank: int, world: World) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and closes the pipe
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    torch.set_num_threads(1)
    worker = Worker(rank, world)
    try:
        while True:
            name, arguments = end.recv()
            end.send((True, getattr(worker, name)(*arguments)))
    except (EOFError, BrokenPipeError):
        pass
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        end.send((False, f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"))
    finally:
        os._exit(0)  # gloo's threads abort the process when the interpreter takes them down
