"""Which worker this process is, in which job, and where its members meet.

Imports gossip.accelerators, gossip.directory, gossip.hosts, gossip.records and torch.

The launcher tells its workers through the environment; under plain torchrun the workers agree on a directory through
torchrun's store, which is used for that one signed address and never again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gossip.accelerators import has_its_own, own_device
from gossip.directory import JobDirectory
from gossip.hosts import Hosts, agree, interface
from gossip.records import SECRET, job_key

JOB = "GOSGD_JOB"
"""Environment variable with the job directory's path, set by the launcher for its workers."""

_log = logging.getLogger("gosgd")
_SILENT_S = 10.0

_stores: list[Store] = []
"""One for each exchange built; kept, because where no launcher serves the store, rank 0's object does."""


@dataclass(frozen=True)
class Job:
    """One worker's place in a job.

    Attributes:
        rank: this worker, 0 to workers - 1, or more if it joined later; also its seat.
        workers: M, how many the job was started with.
        local_rank: index among the workers of this host.
        directory: where the members of this host meet.
        supervised: a launcher owns the directory and removes it; otherwise the last worker does.
        server: arguments of the interpreter that start a server process, where no launcher does; see gossip.server.
        hosts: which there are, if there are several.
        sharing: how many workers share each of a host's accelerators.
    """

    rank: int
    workers: int
    local_rank: int
    directory: JobDirectory
    supervised: bool
    server: tuple[str, ...] = ("-m", "gossip.server")
    hosts: Hosts | None = None
    sharing: int = 1

    @classmethod
    def from_environment(cls) -> Job:
        """The job that the launcher, torchrun, or nobody (one worker) started this process for.

        Raises:
            ValueError: the environment is incomplete, or the workers cannot meet where it says.
            TimeoutError: some of them have not come.
        """
        rank, workers = _integer("RANK", 0), _integer("WORLD_SIZE", 1)
        joined = JOB in os.environ and rank >= workers > 0  # it has a seat above those the job was started with
        if not (joined or 0 <= rank < workers):
            raise ValueError(f"got RANK={rank} and WORLD_SIZE={workers}, expected 0 <= RANK < WORLD_SIZE")
        local_rank = _integer("LOCAL_RANK", rank)
        if JOB in os.environ:
            return cls(rank, workers, local_rank, JobDirectory.open(os.environ[JOB]), supervised=True)
        if workers == 1:
            return cls(rank, workers, local_rank, JobDirectory.create(1, 1), supervised=False)
        directory, hosts = _agree(rank, workers)
        return cls(rank, workers, local_rank, directory, supervised=False, hosts=hosts if hosts.several else None)

    @property
    def here(self) -> Sequence[int]:
        """The workers that this host began with."""
        return range(self.workers) if self.hosts is None else self.hosts.here

    def began(self) -> float:
        """When the first worker of this host began to train, in seconds since 1970: now, if this is the first."""
        mark = self.directory.path / "began"
        with contextlib.suppress(FileExistsError):
            mark.touch(mode=0o600, exist_ok=False)
        return mark.stat().st_mtime

    def abort(self) -> None:
        """Remove the directory of a job that fails and that no launcher looks after."""
        if not self.supervised and self.rank == min(self.here):
            self.directory.remove()

    def device(self) -> torch.device:
        """The accelerator of this worker where there is one, else the CPU.

        Raises:
            ValueError: this host has fewer than its workers need.
        """
        return own_device(self.local_rank, len(self.here), self.sharing, chosen=not self.supervised)

    def process_group(self, device: torch.device, timeout_s: float = 300.0) -> None:
        """Join torch.distributed's default group: NCCL where each has a GPU, gloo on CPUs.

        NCCL refuses two ranks on one GPU, so workers that share one use gloo.
        """
        alone = self.sharing == 1 and has_its_own(device, len(self.here), chosen=not self.supervised)
        where: dict[str, Any] = {"init_method": "env://"}
        if self.supervised:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one host: its name need not resolve
            meeting = self.directory.path / "rendezvous"
            meeting.touch(mode=0o600)  # torch would make it readable to others
            where = {"init_method": f"file://{meeting}"}
        elif _stores:
            if self.hosts is not None and (name := interface(os.environ["MASTER_ADDR"])):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)  # a host's own name often leads to its loopback
            # torchrun keeps the store over restarts, with the addresses of workers that are dead by now.
            where = {"store": PrefixStore(f"{_attempt()}/group", _stores[-1])}
        dist.init_process_group(
            dist.get_default_backend_for_device(device) if alone else "gloo",
            **where,
            device_id=device if alone else None,
            rank=self.rank,
            world_size=self.workers,
            timeout=timedelta(seconds=timeout_s),
        )


def _integer(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"got {name}={text!r} in the environment, expected a whole number") from None


def _attempt() -> str:
    """What keys in the store begin with: of this start of the workers, and this process's newest exchange."""
    return f"gosgd/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{len(_stores)}"


def _agree(rank: int, workers: int) -> tuple[JobDirectory, Hosts]:
    """Come together through torchrun's store; each exchange of a process has its own directories."""
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        raise ValueError(
            f"got WORLD_SIZE={workers} without MASTER_ADDR and MASTER_PORT, expected the environment that torchrun"
            " sets; start the program with torchrun --nproc-per-node=N"
        )
    key = job_key()
    with _heard_of_when_late(rank, workers):
        try:
            shared, _, _ = next(iter(rendezvous("env://", rank, workers)))
        except dist.DistError as error:
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"got MASTER_ADDR and MASTER_PORT {_where()}, where the workers cannot meet ({why})"
            ) from None
        _stores.append(shared)
        return agree(shared, key, _attempt(), rank, workers)


def _where() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


@contextlib.contextmanager
def _heard_of_when_late(rank: int, workers: int) -> Iterator[None]:
    """Say what this worker waits for, once it has done so for a while."""
    # Else the store is torchrun's, and outlives worker 0.
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    text = f"worker {rank}: waiting at {_where()} for the others of {workers} workers, expected all to be started with"
    text += f" the same WORLD_SIZE, MASTER_ADDR, MASTER_PORT and {SECRET}"
    if serves:
        text += "; to a job that is running worker 0 cannot come back alone: end its others, and start all anew"
    timer = threading.Timer(_SILENT_S, _log.warning, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
