"""Members on several hosts: those of this host through shared memory, the others through NIXL.

Imports the shared-memory transport, and gossip.transports' courier. Which way leads to a member is not configured: one
whose lock lies in this host's job directory is here, whatever its host is called. Where workers have GPUs, see
device_cluster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import Member, State, Words
from gossip.transports.courier import ABSENCE_S, Courier
from gossip.transports.links import Link
from gossip.transports.mirror import Mirror, Watched
from gossip.transports.nixl import Engine, LinkError, whole_pages
from gossip.transports.notes import About, Notes
from gossip.transports.shared_memory import SharedMemory
from gossip.transports.vectors import Vectors
from gossip.transports.view import View

_log = logging.getLogger("gosgd")
_UNREADABLE = (
    "got memory that other hosts cannot read ({}), expected leave to lock what slots take; raise the limit (ulimit -l"
    " unlimited)"
)


class Cluster(SharedMemory):
    """One member of a job on several hosts.

    Args:
        directory: where the members of this host meet; seats and founders are those of the whole job.
        seat: the seat to take.
        dimension: D, elements of a weight vector.
        dtype: of a weight vector.
        slots: how many messages of ours may be unread at once before sends are skipped; as many places are kept for
            messages that come from other hosts.
        fingerprint: of the model.
        key: of the job, see gossip.records.
        generation: how many members there were on this seat before, on whichever host.
        wire: what vectors are rounded to in the slots, where they need not be whole.
        appeared: called once the others may know of this member; what it returns is called before it leaves.
        device: the GPU whose memory other hosts may read, if any.
        memory: what the way through this host's own memory takes besides.

    Raises:
        ValueError: the seat does not exist or a living process has it, or there is too little memory.
    """

    def __init__(
        self,
        directory: JobDirectory,
        seat: int,
        dimension: int,
        dtype: torch.dtype,
        slots: int,
        fingerprint: int = 0,
        *,
        key: bytes,
        generation: int = 0,
        wire: torch.dtype | None = None,
        appeared: Callable[[Cluster], Callable[[], None]] = lambda transport: lambda: None,
        device: torch.device | None = None,
        **memory: Any,
    ) -> None:
        self._appeared, self._shown = appeared, False
        self._parting: list[Callable[[], None]] = []
        super().__init__(directory, seat, dimension, dtype, slots, fingerprint, generation, wire, **memory)
        self._watcher = View(directory)
        self._unmet: dict[Member, Mirror] = {}
        self._published: Tensor | None = None
        self._initial: Tensor | None = None
        self._registered: dict[str, int] = {}
        self._full = False
        self._metadata = b""
        notes = Notes(key)
        try:
            self._engine = Engine(f"{notes.tag.hex()}/{self.me.seat}.{self.me.generation}", device)
            self._parting = [self._engine.close]
            self._staging = [whole_pages(dimension, dtype=dtype) for _ in range(max(1, slots))]
            self._engine.register(*self._staging)
            own = self._words[self.me]
            self._header = torch.frombuffer(own, dtype=torch.int64)
            self._vectors = Vectors(
                self.me, self._engine, own, self.seats, len(self._staging), self._stand, self._bytes
            )
            self._courier = Courier(
                self.me, self._engine, notes, own, self.seats, self._vectors, self._ended, self._about
            )
        except LinkError as error:
            super().close()
            raise ValueError(_UNREADABLE.format(error)) from error
        except BaseException:
            super().close()
            raise
        self.words = Watched(own, self.seats, self._courier.urgent)

    def _about(self) -> About:
        """This member as others are to know it; registers what memory has been added. Called by one thread only."""
        slots = [self._address(f"slot {index}", self._maps.get((self.me, index))) for index in range(self._created)]
        words = self._address("words", self._header)
        published = self._address("published", self._published)
        initial = self._address("initial", self._initial)
        if not self._metadata:
            self._metadata = self._engine.metadata()
        return About(self.me, self._metadata, self.dimension, self.fingerprint, words, tuple(slots), published, initial)

    def _address(self, name: str, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        if name not in self._registered:
            try:
                self._engine.register(tensor)
            except LinkError as error:
                if not self._shown:
                    raise
                _log.warning("worker %d: other hosts cannot read its %s: %s", self.me.seat, name, error)
                self._registered[name], self._full = 0, True
            else:
                self._registered[name] = tensor.data_ptr()
            self._metadata = b""
        return self._registered[name]

    def grow(self) -> None:
        """Ask for one more slot, unless what was added last could not be read by other hosts."""
        if not self._full:
            super().grow()

    def _ended(self) -> dict[Member, Words]:
        """Members of this host that are proven to have ended; nobody, if it is not this one's turn to tell."""
        ended = {}
        for member in self._watcher.everybody():
            if not self._local(member):
                continue
            if self._watcher.dead(member):
                ended[member] = self._watcher.open(member)
            elif member < self.me:
                return {}
        return ended

    def _bytes(self, slot: int) -> int:
        """Of the vector in a slot, as an announcement describes it."""
        return self.dimension * self.wire(slot).itemsize

    def appear(self) -> None:
        """Show this member to the others; its words must say by now what it holds.

        Raises:
            ValueError: its memory cannot be read by other hosts.
        """
        try:
            self.about = self._about()
        except LinkError as error:
            raise ValueError(_UNREADABLE.format(error)) from error
        super().appear()
        self._courier.start()
        self._shown, self._parting = True, [self._courier.stop]
        self._parting.insert(0, self._appeared(self))

    def offer(self, initial: Tensor) -> None:
        """Let other hosts read the weights that founders begin with."""
        self._initial = initial
        self._courier.urgent(None)

    def ask(self, place: Tensor, arrived: Callable[[], None]) -> None:
        """Have the weights that founders begin with brought from another host, if one offers them.

        Args:
            place: where to, [D]; private to this call.
            arrived: called from another thread once they are there.
        """
        if self._vectors.wanted is None:
            self._vectors.wanted = place, arrived

    def introduce(self, about: About) -> None:
        """Make a member of another host known."""
        if not self._local(about.member):
            self._courier.introduce(about)

    def generations(self) -> Sequence[int]:
        """Per seat, how many members have appeared on it, here or elsewhere."""
        return list(map(max, super().generations(), self._courier.counts))

    def _local(self, member: Member) -> bool:
        return member == self.me or self.file(member, "lock").exists()

    def _link(self, member: Member) -> Link | None:
        return self._courier.links.get(member)

    def together(self, one: Member, other: Member) -> bool:
        """Whether two members reach each other through this host's memory."""
        return self._here(one) and self._here(other)

    def _here(self, member: Member) -> bool:
        return member not in self._courier.links and member not in self._unmet

    def open(self, member: Member) -> Words:
        """A member's control words, as far as they are known here."""
        link = self._link(member)
        if link is None:
            if member not in self._words and not self._local(member):
                return self._unmet.setdefault(member, Mirror())
            return super().open(member)
        return link.words

    def check(self, member: Member) -> None:
        """Refuse a living member that runs another model.

        Raises:
            ValueError: it does.
        """
        link = self._link(member)
        if link is None:
            super().check(member)
        elif link.about.dimension:
            self.check_model(member, link.about.dimension, link.about.fingerprint)

    def slot(self, member: Member, index: int) -> Tensor:
        """Slot `index` of a member as a tensor [D]; of a member elsewhere, what has been read from it."""
        if self._link(member) is None:
            return super().slot(member, index)
        return self.formatted(self._stand(index & layout.SLOT_INDEX, index), index)

    def _stand(self, place: int, word: int) -> Tensor:
        """Where the vector that a SLOT word stands for is read to, if it is read to a place."""
        return self._staging[place]

    def dead(self, member: Member) -> bool:
        """Whether the member's process is proven to be gone, by somebody on its host."""
        link = self._link(member)
        return link.ended if link is not None else super().dead(member)

    def reachable(self, member: Member) -> bool:
        """Whether the member has been heard of lately, or nothing more is to be heard of it."""
        link = self._link(member)
        if link is None:
            return super().reachable(member)
        return link.up or link.ended or (link.settled and link.words[layout.STATE] == State.GONE)

    def absent(self, member: Member) -> bool:
        """Whether a member has been out of reach for so long that nobody should wait for it before leaving."""
        link = self._link(member)
        return link is not None and not self.reachable(member) and time.monotonic() - link.heard_at > ABSENCE_S

    def settled(self, member: Member) -> bool:
        """Whether it is known which of our mail a gone member has read."""
        link = self._link(member)
        return link.settled if link is not None else self._local(member)

    def auditable(self) -> bool:
        """Whether all words of all members are known here: those of other hosts tell them when they end."""
        return not self._unmet and all(link.books for link in [*self._courier.links.values()] if link.met)

    def discard(self, member: Member) -> None:
        """Free what holds a gone member's vectors."""
        link = self._link(member)
        if link is None:
            super().discard(member)
        else:
            link.discarded = True
            self._courier.urgent(member.seat)

    def publication(self, member: Member, create: bool = False) -> Tensor:
        """A member's two snapshots [2, D]; of a member elsewhere, what has been read of them."""
        link = self._link(member)
        if link is None:
            found = super().publication(member, create)
            if create:
                self._published = found
                self._courier.urgent(None)
            return found
        self._vectors.watching = True
        if link.snapshots is None:
            raise FileNotFoundError(f"nothing has been read of worker {member.seat} yet")
        return link.snapshots

    def close(self) -> None:
        """Say farewell to the other hosts, then let go of this one."""
        for part in self._parting:
            part()
        super().close()
