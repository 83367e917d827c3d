"""Several hosts on one machine: a job directory each, and if wanted a network each that can be cut and shaped.

`Hosts` is a job whose members' seats are shared out to hosts. Networks are those of benchmarks.networks.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from support.members import Actor, Cluster
from support.on_devices import DeviceActor
from support.remote import Handle, in_process_of_its_own, until

from benchmarks import networks
from benchmarks.networks import Network
from gossip.directory import JobDirectory, root
from gossip.layout import Member
from gossip.transports.cluster import Cluster as ClusterTransport
from gossip.transports.device_cluster import DeviceCluster
from gossip.transports.notes import About
from gossip.transports.view import View

KEY = b"of these tests"


def why_no_nixl() -> str:
    """Why members of several hosts cannot be tested here; empty if they can."""
    if not importlib.util.find_spec("nixl"):
        return "nixl is not installed"
    try:
        importlib.import_module("nixl._api")
    except ImportError as error:
        return f"nixl is not installed as it should be: {error}"
    return ""


def why_no_network() -> str:
    """Why hosts with networks of their own cannot be made here; empty if they can."""
    return networks.why_none() or why_no_nixl()


class Abroad(Actor):
    """A member of a job on several hosts."""

    def enter(self, place: Any, seat: int, dimension: int, slots: int) -> ClusterTransport:
        directory, generation = self.arrive(*place)
        return ClusterTransport(directory, seat, dimension, torch.float32, slots, key=KEY, generation=generation)

    def arrive(self, path: str, generation: int, namespace: str) -> tuple[JobDirectory, int]:
        """Go to the network of a host, and find the job there."""
        if namespace:
            networks.move_to(namespace)
        return JobDirectory.open(path), generation

    def about(self) -> About:
        return self.transport.about

    def introduce(self, about: About) -> None:
        self.transport.introduce(about)

    def reached(self) -> list[int]:
        """Seats of those that are in reach."""
        return sorted(peer.member.seat for peer in self.outbox.reached())

    def counts(self) -> list[int]:
        return list(self.transport.generations())


class AbroadOnDevice(DeviceActor, Abroad):
    """One whose slots lie in memory that stands for a GPU's."""

    direct = True

    def enter(self, place: Any, seat: int, dimension: int, slots: int) -> DeviceCluster:  # type: ignore[override]
        directory, generation = self.arrive(*place)
        ipc = self.prepare(directory, dimension)
        options: dict[str, Any] = {"key": KEY, "generation": generation, "device": self.where, "direct": self.direct}
        return DeviceCluster(directory, seat, dimension, torch.float32, slots, ipc=ipc, **options)


class AbroadThroughHost(AbroadOnDevice):
    """One whose GPU's memory other hosts do not read."""

    direct = False


class AbroadOnGpu(AbroadOnDevice):
    """One whose slots lie in a GPU's memory."""

    kind = "cuda"


class AbroadOnGpuThroughHost(AbroadOnGpu):
    """One whose slots other hosts read in its host's memory, whose pages the network library and the copies lock."""

    direct = False


class Union:
    """What an auditor sees who looks at all hosts at once."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views, self.seats = views, views[0].seats

    def _of(self, member: Member) -> View | None:
        return next((view for view in self.views if view.file(member, "lock").exists()), None)

    def generations(self) -> list[int]:
        return [max(counts) for counts in zip(*(view.generations() for view in self.views), strict=True)]

    def open(self, member: Member) -> Any:
        view = self._of(member)
        return view.open(member) if view else [0] * 10_000

    def dead(self, member: Member) -> bool:
        view = self._of(member)
        return view is None or view.dead(member)

    def together(self, one: Member, other: Member) -> bool:
        return self._of(one) is self._of(other)


class Hosts(Cluster):
    """A job on several hosts; each seat's host is `seat % hosts` unless said otherwise.

    Args:
        hosts: how many.
        where: host of each seat.
        net: networks of the hosts; all on the machine's own if None.
    """

    kind = "hosts"
    actors: Sequence[type[Abroad]] = (Abroad,)
    transports = "tcp"

    def __init__(
        self, founders: int, hosts: int = 2, where: Sequence[int] = (), net: Network | None = None, **options: Any
    ) -> None:
        super().__init__(founders, **options)
        self.net = net
        self.where = list(where) or [seat % hosts for seat in range(self.seats)]
        self.rooms, self.directories = [], []
        before = os.environ.get("GOSGD_SHM_DIR")
        for _ in range(hosts):
            self.rooms.append(tempfile.mkdtemp(prefix="host-", dir=root() if before is None else before))
            os.environ["GOSGD_SHM_DIR"] = self.rooms[-1]
            self.directories.append(JobDirectory.create(self.seats, founders))
            if before is None:
                del os.environ["GOSGD_SHM_DIR"]
            else:
                os.environ["GOSGD_SHM_DIR"] = before
        self.books = Union([View(directory) for directory in self.directories])
        self.lives = [0] * self.seats
        self.abouts: list[About] = []

    def _run(self, seat: int, *arguments: Any) -> Handle:
        host = self.where[seat]
        place = (str(self.directories[host].path), self.lives[seat], self.net.names[host] if self.net else "")
        self.lives[seat] += 1
        variables = {"GOSGD_SHM_DIR": self.rooms[host], "UCX_TLS": self.transports}
        variables |= {"UCX_NET_DEVICES": "eth0"} if self.net else {}
        return in_process_of_its_own(self.actors[seat % len(self.actors)], place, seat, *arguments, **variables)

    def _introduce(self, members: Sequence[Handle]) -> None:
        news = [member.ask("about") for member in members]
        self.abouts += news
        for member in self.members.values():
            for about in self.abouts if member in members else news:
                member.ask("introduce", about)

    def found(self, patience: int = 50) -> list[Handle]:
        from gossip.mass import share_out

        for seat, mass in enumerate(share_out(self.founders)):
            self.members[seat] = self._start(seat, mass, False, patience)
        founders = list(self.members.values())
        for founder in founders:
            founder.answer()
        self._introduce(founders)
        self.acquaint()
        return founders

    def acquaint(self) -> None:
        """Wait until everybody alive knows and reaches everybody alive."""
        for seat, member in self.members.items():
            others = sorted(self.members.keys() - {seat})

            def acquainted(member: Handle = member, others: Sequence[int] = others) -> bool:
                newest = {one.seat: one.generation for one in member.ask("meet")}
                right = all(newest.get(seat) == self.lives[seat] - 1 for seat in others)
                return right and set(others) <= set(member.ask("reached"))

            until(acquainted, 30.0)

    def join(self, seat: int) -> Handle:
        member = super().join(seat)
        self._introduce([member])
        self.acquaint()
        return member

    def slots_of(self, member: Member) -> int:
        kinds = {"slot", "ipc"}
        files = [path for one in self.directories for path in one.path.glob(f"{member.seat}-{member.generation}.*")]
        return len({path.suffix.partition("-")[2] for path in files if path.suffix[1:].partition("-")[0] in kinds})

    def rest(self, *members: Handle, timeout_s: float = 20.0) -> None:
        """Let members read, meet and bury until nothing is on its way any more."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for member in members or tuple(self.members.values()):
                for name in ("meet", "poll", "bury"):
                    member.ask(name)
            ledger = self.ledger(100_000)
            if ledger.in_flight == 0:
                return
            time.sleep(0.01)
        raise TimeoutError(f"mail is still on its way: {ledger}")

    def end(self) -> None:
        super().end()
        for directory in self.directories:
            directory.remove()
        for place in self.rooms:
            shutil.rmtree(place, ignore_errors=True)


class HostsWithDevices(Hosts):
    """Slots lie in memory that stands for a GPU's, and other hosts read it there."""

    kind = "devices"
    actors = (AbroadOnDevice,)


class MixedHosts(Hosts):
    """Members with devices that others read, with some that they do not, and members without."""

    kind = "mixed"
    actors = (AbroadOnDevice, Abroad, AbroadThroughHost)


class HostsWithGpu(Hosts):
    """Members share a GPU whose memory they register."""

    kind = "gpu"
    actors: Sequence[type[Abroad]] = (AbroadOnGpu,)
    transports = "tcp,cuda"


class HostsWithGpuThroughHost(HostsWithGpu):
    """Members share a GPU whose memory other hosts do not read."""

    kind = "gpu_through_host"
    actors = (AbroadOnGpuThroughHost,)
