"""Long-lived worker processes that a benchmark calls all at once, and the shared memory they meet in. Imports gossip.

Workers start from a server process that has torch imported already, so eight of them are up in a second. However a
benchmark ends, they end with it, stopped ones included.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from typing_extensions import Self

from gossip.directory import JobDirectory, map_file

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_GRACE_S = 2.0
_PRELOADED = ["gossip", "trainers.models"]


@contextmanager
def job_directories(count: int, workers: int) -> Iterator[list[JobDirectory]]:
    """Job directories for `workers` founders each, one for every exchange that a worker builds; removed at the end."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            directory = JobDirectory.create(workers, workers)
            stack.callback(directory.remove)
            made.append(directory)
        yield made


class Signs:
    """Words in shared memory by which workers that have no barrier know how far the others are, one word a writer.

    Args:
        path: of the file; made by whoever comes first.
        count: of words.
    """

    def __init__(self, path: Path, count: int) -> None:
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, 8 * count)
        self._words = memoryview(map_file(path, 8 * count)).cast("Q")

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = value

    def count(self, index: int) -> int:
        """Add one to a word of one's own, and return it."""
        self._words[index] += 1
        return self._words[index]

    def reached(self, value: int) -> bool:
        """Whether every word is at `value` or beyond."""
        return min(self._words) >= value


class Fleet:
    """Worker processes, each holding one object whose methods are called from here.

    Args:
        workers: M.
        build: called in each process as `build(rank, *arguments)`; importable, like the arguments.
    """

    def __init__(self, workers: int, build: Callable[..., Any], *arguments: Any) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one host: its name need not resolve
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self.processes = []
        self._ends: list[Connection] = []
        try:
            for rank in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, rank, build, arguments), daemon=True)
                process.start()
                theirs.close()
                self.processes.append(process)
                self._ends.append(ours)
            self.collect()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def call(self, method: str, *arguments: Any, timeout_s: float = 1800.0) -> list[Any]:
        """Call a method in every worker at the same time and wait for all; results by rank.

        Raises:
            RuntimeError: a worker failed or died; its traceback is in the message.
            TimeoutError: a worker has not answered for `timeout_s` seconds.
        """
        self.send(method, *arguments)
        return self.collect(timeout_s=timeout_s)

    def send(self, method: str, *arguments: Any) -> None:
        """Call a method in every worker without waiting; `collect` takes the results."""
        for end in self._ends:
            end.send((method, arguments))

    def call_one(self, rank: int, method: str, *arguments: Any) -> Any:
        """Call a method in one worker while the others sleep."""
        self._ends[rank].send((method, arguments))
        return self.collect([rank])[0]

    def collect(self, ranks: list[int] | None = None, timeout_s: float = 1800.0) -> list[Any]:
        """The results of what was sent to these workers, all by default."""
        pending = {self._ends[rank]: rank for rank in (range(len(self._ends)) if ranks is None else ranks)}
        results: dict[int, Any] = {}
        deadline = time.monotonic() + timeout_s
        while pending:
            ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"got no answer from workers {sorted(pending.values())} in {timeout_s:.0f} s")
            for end in ready:
                assert isinstance(end, Connection)
                rank = pending.pop(end)
                try:
                    done, result = end.recv()
                except EOFError:
                    raise RuntimeError(f"worker {rank} died") from None
                if not done:
                    raise RuntimeError(f"worker {rank} failed:\n{result}")
                results[rank] = result
        return [results[rank] for rank in sorted(results)]

    def close(self) -> None:
        """End every worker and wait for its process."""
        for end in self._ends:
            end.close()
        deadline = time.monotonic() + _GRACE_S
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self.processes:
            process.kill()  # of one that is in the middle of a long call, or stopped
            process.join()


def _serve(end: Connection, rank: int, build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and closes the pipe
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    torch.set_num_threads(1)
    try:
        worker = build(rank, *arguments)
        end.send((True, None))
        while True:
            method, given = end.recv()
            end.send((True, getattr(worker, method)(*given)))
    except (EOFError, BrokenPipeError):
        pass
    except Exception:
        end.send((False, traceback.format_exc()))
    finally:
        os._exit(0)  # gloo's threads abort the process when the interpreter takes them down
