"""How workers on one or several hosts find each other when they start. Imports gossip.records and gossip.transports.

All workers meet in torchrun's store, and those of one host then in a directory of its shared memory. Which are on one
host shows by itself: rank 0 gives the directories a name that nobody else can guess, and whoever finds a directory of
that name in its shared memory is where its maker is.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import Store
from torch.distributed import DistError

from gossip.directory import JobDirectory
from gossip.layout import Member
from gossip.records import Records
from gossip.transports.cluster import Cluster
from gossip.transports.device_cluster import DeviceCluster
from gossip.transports.ipc import Ipc
from gossip.transports.nixl import check_installed
from gossip.transports.notes import About

_log = logging.getLogger("gosgd")

_OPEN = "gosgd/open"
"""What the key begins with of what a job's keys begin with whose members come and go one by one: a worker that is
started again joins it. Behind it comes which of the program's exchanges it is."""
_SIOCGIFADDR = 0x8915
PATIENCE_S = 300.0
"""How long workers wait for each other at the start, once torchrun has started them on every host."""
_LOOK_S = 0.05
_CHECK_S = 5.0


@dataclass(frozen=True)
class Hosts:
    """The hosts of a job, and the store through which its workers have met.

    Attributes:
        store: as torchrun serves it.
        key: of the job, see gossip.records.
        prefix: what the job's keys in the store begin with.
        ranks: of the workers that each host began with.
        here: those of this host.
    """

    store: Store
    key: bytes
    prefix: str
    ranks: Sequence[Sequence[int]]
    here: Sequence[int]

    def tell(self, name: str, value: Any) -> None:
        """Write something for the other hosts to read."""
        Records(self.store, self.key).put(f"{self.prefix}/{name}", value)

    def hear(self, name: str, timeout_s: float) -> Any:
        """Wait for what another host tells.

        Raises:
            TimeoutError: nothing came.
        """
        return Records(self.store, self.key).get(f"{self.prefix}/{name}", timeout_s)

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self.ranks) > 1

    def leaders(self) -> list[int]:
        """The lowest rank of every host."""
        return [min(ranks) for ranks in self.ranks]

    def open(self) -> None:
        """Let workers that are started again, by whatever restarts them, come back to this job."""
        Records(self.store, self.key).put(_opened(self.prefix), self.prefix)

    def take(self, seat: int) -> int:
        """How many members there have been on a seat before the one that asks."""
        return int(self.store.add(f"{self.prefix}/lives/{seat}", 1)) - 1

    def lives(self, seat: int) -> int:
        """How many members there have been on a seat so far."""
        return int(self.store.add(f"{self.prefix}/lives/{seat}", 0))

    def told(self, name: str) -> bool:
        """Whether `hear` would return at once."""
        return bool(self.store.check([f"{self.prefix}/{name}"]))


def agree(store: Store, key: bytes, attempt: str, rank: int, workers: int) -> tuple[JobDirectory, Hosts]:
    """Come together: workers of one host in one directory.

    Args:
        store: that all workers reach.
        key: of the job.
        attempt: what keys in the store begin with, of this start of the workers; its last part says which exchange of
            the program this is.
        rank: of this worker.
        workers: M.

    Raises:
        TimeoutError: somebody has not come, or has another secret.
    """
    records = Records(store, key)
    prefix = attempt
    if store.check([_opened(attempt)]):
        prefix = records.get(_opened(attempt), PATIENCE_S)
    elif rank == 0:
        records.put(f"{prefix}/directory", secrets.token_hex(12))
    name = f"{prefix}/host/{rank}"
    try:
        token = records.get(f"{prefix}/directory", PATIENCE_S)
    except TimeoutError:
        store.set(name, "")  # signed by nobody, so that the others need not wait either
        raise
    directory = JobDirectory.meet(token, workers, workers)
    records.put(name, directory.host())
    try:
        hosts = [records.get(f"{prefix}/host/{other}", PATIENCE_S) for other in range(workers)]
    except TimeoutError:
        directory.let_go()
        raise
    groups = [[other for other in range(workers) if hosts[other] == host] for host in dict.fromkeys(hosts)]
    here = next(group for group in groups if rank in group)
    return directory, Hosts(store, key, prefix, groups, here)


def _opened(prefix: str) -> str:
    return f"{_OPEN}/{prefix.rpartition('/')[2]}"


def interface(address: str) -> str | None:
    """The network interface that leads to an address; None where that cannot be told."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # a datagram socket sends nothing to connect
            mine = probe.getsockname()[0]
            if mine.startswith("127.") and not address.startswith("127."):
                return None  # a host's own name, which leads to its loopback from there alone
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                try:
                    answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                except OSError:
                    continue
                if socket.inet_ntoa(answer[20:24]) == mine:
                    return name
    except OSError:
        pass
    return None


class Registrar(threading.Thread):
    """Tells through the store how a member can be reached, and looks there for the others, while it can be reached.

    Args:
        hosts: of the job.
        seats: of the job.
        about: the member.
        introduce: called with everybody found.
    """

    def __init__(self, hosts: Hosts, seats: int, about: About, introduce: Callable[[About], None]) -> None:
        super().__init__(name="gosgd-registrar", daemon=True)
        self._hosts, self._seats, self._about, self._introduce = hosts, seats, about, introduce
        self.ended = threading.Event()

    def run(self) -> None:
        """Go on until the end, or until the store is lost: those who know each other by then need it no more."""
        hosts = Hosts(_clone(self._hosts.store), self._hosts.key, self._hosts.prefix, (), ())
        seat, generation = self._about.member
        known = [0] * self._seats
        try:
            hosts.tell(f"member/{seat}/{generation}", self._about.record())
            missing, pause = {other for other in range(self._seats) if other != seat}, _LOOK_S
            while not self.ended.wait(pause):
                for other in sorted(missing):
                    self._look(hosts, other, known)
                missing = {other for other in missing if not known[other]}
                pause = min(1.2 * pause, 1.0) if missing else _CHECK_S
                hosts.told("directory")
        except (DistError, TimeoutError, ValueError, RuntimeError) as error:
            if not self.ended.is_set():
                _log.warning(
                    "worker %d: the store at %s:%s is lost: no worker can join any more, training goes on (%s)",
                    seat,
                    os.environ.get("MASTER_ADDR"),
                    os.environ.get("MASTER_PORT"),
                    " ".join(str(error).split())[:120],
                )

    def _look(self, hosts: Hosts, seat: int, known: list[int]) -> None:
        lives = hosts.lives(seat)
        if lives > known[seat] and hosts.told(name := f"member/{seat}/{lives - 1}"):
            known[seat] = lives
            about = About.of(hosts.hear(name, 10.0))
            if about.member == Member(seat, lives - 1):
                self._introduce(about)


def _clone(store: Store) -> Store:
    """A connection of one's own: an answer that does not come holds up nobody else."""
    try:
        copy: Store = store.clone()  # type: ignore[attr-defined, unused-ignore]
    except (AttributeError, NotImplementedError, RuntimeError):
        return store
    copy.set_timeout(timedelta(seconds=30))
    return copy


def enter(
    directory: JobDirectory,
    hosts: Hosts,
    seat: int,
    dimension: int,
    dtype: torch.dtype,
    slots: int,
    fingerprint: int,
    wire: torch.dtype | None,
    device: torch.device,
    ipc: Ipc | None,
    direct: bool,
) -> Cluster:
    """Take a seat in a job on several hosts; arguments as of `Cluster`.

    Args:
        device: where weights are.
        ipc: to make slots in a GPU's memory with; None: they lie in the host's.
        direct: whether other hosts are to read them there.

    Raises:
        ValueError: nixl is not installed, or the seat is taken.
    """
    check_installed()
    generation = hosts.take(seat)
    hosts.open()

    def appeared(transport: Cluster) -> Callable[[], None]:
        registrar = Registrar(hosts, transport.seats, transport.about, transport.introduce)
        registrar.start()
        return registrar.ended.set

    place = (directory, seat, dimension, dtype, slots, fingerprint)
    ways: dict[str, Any] = {"key": hosts.key, "generation": generation, "wire": wire, "appeared": appeared}
    return DeviceCluster(*place, **ways, device=device, ipc=ipc, direct=direct) if ipc else Cluster(*place, **ways)
