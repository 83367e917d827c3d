"""One of the two processes of `gosgd doctor`'s trial: gossips, meets collectively, reads over NIXL, and tells.

Run as `python -m launch.doctor_probe FOLDER JOB`. What came of part P on rank R is written to FOLDER/R.P.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gossip
from configs.files import write_atomically
from gossip.directory import JobDirectory
from gossip.job import Job
from gossip.ledger import audit
from gossip.mass import TOTAL
from gossip.transports.nixl import MISSING, Engine
from launch.process import end_with_the_supervisor
from launch.units import size

_SIDE = 300
_STEPS = 300
_PAUSE_S = 0.0005
_NUMBERS = 1000
_WAIT_S = 20.0


def through_shared_memory(job: Job, folder: Path) -> dict[str, Any]:
    """Push at every step; all elements of a vector are equal, so that a torn message would show."""
    model = nn.Linear(_SIDE, _SIDE).to(job.device())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    exchange = gossip.build("gosgd", model, job=job, rho=1.0)
    exchange.start()
    torn, times = False, []
    for _ in range(_STEPS):
        exchange.flat.vector.add_(1.0)
        before = time.perf_counter()
        exchange.step()
        times.append(time.perf_counter() - before)
        torn = torn or bool(exchange.flat.vector.min() != exchange.flat.vector.max())
        time.sleep(_PAUSE_S)
    last = exchange.leave(_WAIT_S)
    wrong = "a message came in pieces" if torn else None
    if last:
        ledger = audit(exchange.transport, job.directory.founders)
        if ledger.total != TOTAL or ledger.lost:
            wrong = f"the mass does not balance: {ledger.total / TOTAL:g}, {ledger.lost / TOTAL:g} of it lost"
    received = int(exchange.stats()["received"] or 0)
    exchange.release(last)
    if not received:
        wrong = f"no message in {_STEPS} steps"
    vector = exchange.flat.dimension * exchange.flat.vector.element_size()
    where = str(exchange.flat.vector.device.type)
    said = (
        f"{received} messages of {size(vector)} in {_STEPS} steps ({where}), all whole, mass balanced,"
        f" median exchange {1e6 * statistics.median(times):.0f} us"
    )
    return {"said": said, "wrong": wrong}


def collectively(job: Job, folder: Path) -> dict[str, Any]:
    """Average once."""
    model = nn.Linear(_SIDE, _SIDE).to(job.device())
    exchange = gossip.build("persyn", model, job=job, tau=1)
    exchange.start()
    exchange.flat.vector.fill_(float(job.rank))
    before = time.perf_counter()
    exchange.step()
    took = time.perf_counter() - before
    mean, wanted = float(exchange.flat.vector.mean()), (job.workers - 1) / 2
    backend = torch.distributed.get_backend()
    exchange.close()
    said = f"one average over {backend} in {1e3 * took:.1f} ms"
    return {"said": said, "wrong": None if mean == wanted else f"{backend} averaged to {mean}, expected {wanted}"}


def over_nixl(job: Job, folder: Path) -> dict[str, Any]:
    """Read a vector of the other process."""
    try:
        engine = Engine(f"doctor-{job.rank}")
    except ValueError:
        return {"said": MISSING.partition("pip ")[1] + MISSING.partition("pip ")[2] + " for gossip between hosts"}
    mine, theirs = torch.full((_NUMBERS,), float(job.rank + 1)), torch.zeros(_NUMBERS)
    engine.register(mine, theirs)
    about = {"metadata": engine.metadata().hex(), "address": mine.data_ptr()}
    _show(folder / f"{job.rank}.address", about)
    other = 1 - job.rank
    told = json.loads(_await(folder / f"{other}.address", engine))
    name = engine.connect(bytes.fromhex(told["metadata"]))
    vector = mine.numel() * mine.element_size()
    before = time.perf_counter()
    handle = engine.read(name, theirs, told["address"], vector)
    while not engine.finished(handle):
        if time.perf_counter() - before > _WAIT_S:
            raise TimeoutError(f"no answer of the other process within {_WAIT_S:.0f} s")
    took = time.perf_counter() - before
    engine.release(handle)
    _show(folder / f"{job.rank}.read", {})
    _await(folder / f"{other}.read", engine)
    wrong = None if bool((theirs == other + 1).all()) else "read other numbers than were sent"
    return {"said": f"read {size(vector)} over NIXL (UCX) in {1e3 * took:.1f} ms", "wrong": wrong}


PARTS: dict[str, Callable[[Job, Path], dict[str, Any]]] = {
    "gossip": through_shared_memory,
    "collective": collectively,
    "nixl": over_nixl,
}


def _show(path: Path, what: dict[str, Any]) -> None:
    write_atomically(path, lambda draft: draft.write_text(json.dumps(what)), flush=False)


def _await(path: Path, engine: Engine) -> str:
    """What the other process wrote; meanwhile its reads are answered: UCX gets on in nobody's thread but this one."""
    deadline = time.monotonic() + _WAIT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the other process did not write {path.name} within {_WAIT_S:.0f} s")
        engine.arrived()
        time.sleep(0.001)
    return path.read_text()


def main(folder: Path, second: Path) -> None:
    """Try part after part; the first that fails ends the process, whose output says why."""
    end_with_the_supervisor()
    torch.set_num_threads(1)
    first = Job.from_environment()
    others = {"collective": dataclasses.replace(first, directory=JobDirectory.open(second))}
    for name, part in PARTS.items():
        (folder / f"{first.rank}.{name}.begun").touch()
        _show(folder / f"{first.rank}.{name}", part(others.get(name, first), folder))
    sys.stdout.flush()
    os._exit(0)  # an agent's own threads must not have the last word


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
