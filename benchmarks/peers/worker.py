"""The processes of jobs with one library: `python -m benchmarks.peers.worker ENGINE`. Imports torch, numpy, one engine.

It imports the library once and forks a process for each order. A worker trains the model that lies in the job's folder
and notes each step; then, where the task says so, a loop without exchange and the engine's take turns. The process
named `server` is the one beside the workers that some libraries need.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.peers.engines.base import Engine, Place
from benchmarks.peers.sheets import DATA, MODEL, Sheets, Task

RESULT = "result-{rank}.json"
EXIT = "exit-"
"""Beginning of the name of a file with a process's exit code."""
READY, STARTED = 1, 2
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_CLOSING_S = 5
_POLL_S = 0.01


class Loop:
    """Training with an engine, on batches that depend on the rank alone."""

    def __init__(self, engine: Engine, x: torch.Tensor, y: torch.Tensor, batch_size: int, rank: int) -> None:
        self._engine, self._x, self._y, self._size = engine, x, y, batch_size
        self._generator = torch.Generator().manual_seed(1000 + rank)

    def step(self) -> float:
        """One step; returns the loss before it."""
        at = torch.randint(len(self._x), (self._size,), generator=self._generator)
        engine = self._engine
        if engine.optimizer is not None:
            engine.optimizer.zero_grad()
        loss = functional.cross_entropy(engine.module(self._x[at]), self._y[at])
        torch.autograd.backward(loss)
        if engine.optimizer is not None:
            engine.optimizer.step()
        engine.exchange()
        return loss.item()


def timed(step: Callable[[], object], steps: int) -> float:
    """Mean seconds of a step."""
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - began) / steps


def train(loop: Loop, task: Task, sheets: Sheets, rank: int, together: bool, plain_s: float) -> None:
    """Train until every worker, or where they need not meet worker 0, has made the steps of the task."""
    late = rank == task.workers - 1
    pause_s = (task.slowed - 1) * plain_s if late else 0.0
    follows, steps = rank > 0 and not together, task.steps if together else task.alone
    while sheets.made(0) < steps if follows else sheets.made(rank) < steps:
        if sheets.full(rank):
            break
        sheets.note(rank, loop.step())
        if pause_s:
            time.sleep(pause_s)


def work(folder: Path, rank: int) -> None:
    """All of a worker's part."""
    task = Task.read(folder)
    sheets = Sheets(folder, task)
    model = torch.load(folder / MODEL, weights_only=False)
    with np.load(folder / DATA) as data:
        x, y = torch.from_numpy(data["x"]).float(), torch.from_numpy(data["y"])
    x = (x - x.mean()) / x.std()
    place = _place(folder, task, rank)
    bare = copy.deepcopy(model)
    plain = Loop(Engine(bare, place.optimizer(bare.parameters())), x, y, task.batch_size, rank)
    engine: Engine = _engine(task).build(model, place)
    loop = Loop(engine, x, y, task.batch_size, rank)

    timed(plain.step, task.period)
    sheets.meet(rank, READY)
    plain_s = timed(plain.step, 2 * task.period)
    sheets.meet(rank, STARTED, plain.step)
    began, met = time.monotonic(), engine.met()
    train(loop, task, sheets, rank, engine.together, plain_s)
    met = engine.met() - met
    found: dict[str, Any] = {"began": began, "plain_s": plain_s, "met": met, "turns": []}
    if not task.killed_at:
        sheets.meet(rank, STARTED + 1)
        for pair in range(task.pairs):
            found["turns"].append(_turns(pair, task, sheets, rank, plain, loop, engine.together))
    _write(folder, rank, found)
    signal.alarm(_CLOSING_S)  # a library that waits for a dead worker would wait for long
    engine.close()


def _turns(
    pair: int, task: Task, sheets: Sheets, rank: int, plain: Loop, loop: Loop, together: bool
) -> tuple[float, float]:
    """Seconds of a step without exchange, and with the engine, while all others do the same."""
    phase = STARTED + 2 + 4 * pair
    spent = {}
    order = [("plain", plain), ("engine", loop)]
    for at, (name, one) in enumerate(order if pair % 2 else reversed(order)):
        sheets.meet(rank, phase + 2 * at)
        spent[name] = timed(one.step, task.turn)
        waits = name == "engine" and together
        # A machine whose other cores fall idle is faster: who need not meet goes on until the last has been timed.
        sheets.meet(rank, phase + 2 * at + 1, *([] if waits else [one.step]))
    return spent["plain"], spent["engine"]


def _write(folder: Path, rank: int, found: dict[str, Any]) -> None:
    half = folder / f"half-{rank}"
    half.write_text(json.dumps(found))
    half.rename(folder / RESULT.format(rank=rank))


def _engine(task: Task) -> Any:
    return importlib.import_module(f"benchmarks.peers.engines.{task.module}")


def _place(folder: Path, task: Task, rank: int) -> Place:
    place = Place(task.variant, rank, task.workers, task.batch_size, task.learning_rate, task.period, folder)
    return Place(**{**vars(place), "server": place.hear("server")}) if task.served and rank >= 0 else place


def _take_part(folder: Path, name: str) -> None:
    if name == "server":
        task = Task.read(folder)
        _engine(task).serve(_place(folder, task, -1))
    work(folder, int(name))


def _born(order: dict[str, Any]) -> None:
    """What a forked process does, to its end."""
    code = 1
    try:
        os.setsid()  # libraries have helper processes, which must end with their worker
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        folder, name = Path(order["folder"]), order["name"]
        log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.update(order["environment"])
        _take_part(folder, name)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # gloo's threads abort the process when the interpreter takes them down


def _reap(born: dict[int, Path]) -> None:
    for pid in list(born):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with contextlib.suppress(FileNotFoundError):  # the job is over, and its folder gone
                born[pid].write_text(str(os.waitstatus_to_exitcode(status)))
            del born[pid]


def main() -> None:
    """Fork a process for each line of standard input, as long as there is one."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark hears it too
    torch.set_num_threads(1)
    importlib.import_module(f"benchmarks.peers.engines.{sys.argv[1]}")
    born: dict[int, Path] = {}
    while True:
        ready, _, _ = select.select([sys.stdin], [], [], _POLL_S if born else None)
        _reap(born)
        if not ready:
            continue
        line = os.read(0, 1 << 16)
        if not line:
            return
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            _born(order)
        born[pid] = Path(order["folder"]) / f"{EXIT}{order['name']}"
        print(pid, flush=True)


if __name__ == "__main__":
    main()
