"""Two hosts in this process: a job directory each, and members that find each other through NIXL."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from support.hosts import KEY
from support.remote import until
from torch import Tensor

from gossip import layout
from gossip.directory import JobDirectory
from gossip.transports.cluster import Cluster

D = 64


@contextlib.contextmanager
def two_hosts(kind: Callable[..., Cluster] = Cluster) -> Iterator[Callable[..., Cluster]]:
    """Has members enter a job, seat 0 on one host and seat 1 on the other; all have left in the end."""
    directories = [JobDirectory.create(2, 2) for _ in range(2)]
    there: list[Cluster] = []

    def enter(seat: int, kind: Callable[..., Cluster] = kind, slots: int = 2, **options: Any) -> Cluster:
        there.append(kind(directories[seat], seat, D, torch.float32, slots, key=KEY, **options))
        return there[-1]

    try:
        yield enter
    finally:
        for one in there:
            one.close()
        for directory in directories:
            directory.remove()


def meet(*members: Cluster) -> None:
    """Introduce members to each other."""
    for member in members:
        member.appear()
    for one in members:
        for other in members:
            one.introduce(other.about)
    await_each_other(*members)


def await_each_other(*members: Cluster) -> None:
    """Wait until all are in reach of all."""
    for one, other in itertools.permutations(members, 2):
        until(lambda one=one, other=other: one._link(other.me) and one.reachable(other.me))


def announce(sender: Cluster, receiver: Cluster, value: float, slot: int = 1, sequence: int = 1) -> int:
    """Write a vector and announce it as a queue does; the word that says where it is."""
    place = sender.place(slot, False, receiver.me)
    sender.slot(sender.me, place).fill_(value)
    seat = receiver.me.seat
    sender.words[layout.details(seat, sequence) + layout.SLOT] = place
    sender.words[layout.post(seat) + layout.COMMIT] = layout.pack(sequence, receiver.me.generation)
    return place


def shown(sender: Cluster, receiver: Cluster, sequence: int = 1) -> bool:
    """Whether an announcement has come, with its vector."""
    word = receiver.open(sender.me)[layout.post(receiver.me.seat) + layout.COMMIT]
    return word == layout.pack(sequence, receiver.me.generation)


def vector(sender: Cluster, receiver: Cluster, sequence: int = 1) -> Tensor:
    """The vector of an announcement that has come."""
    words = receiver.open(sender.me)
    return receiver.slot(sender.me, words[layout.details(receiver.me.seat, sequence) + layout.SLOT])


def carry(sender: Cluster, receiver: Cluster, value: float, slot: int = 1) -> tuple[Tensor, int]:
    """Announce a vector; what has come, and where it was."""
    place = announce(sender, receiver, value, slot)
    until(lambda: shown(sender, receiver))
    return vector(sender, receiver), place
