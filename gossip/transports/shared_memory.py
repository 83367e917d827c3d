"""Members on one host: control words, slots and publications as files mapped from a job directory.

Imports gossip.directory, gossip.layout, the view of a job, and torch.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossip import layout
from gossip.directory import JobDirectory, map_file, write_privately
from gossip.layout import Member, State, Words
from gossip.locks import lock, unlock
from gossip.transports.base import Transport
from gossip.transports.view import View

_log = logging.getLogger("gosgd")
_FORMATS = (None, torch.float32, torch.float16, torch.bfloat16)
_FORMAT_SHIFT = 32


class SharedMemory(View, Transport):
    """One member of a job on one host.

    Args:
        directory: the job.
        seat: the seat to take; its next generation becomes this process.
        dimension: D, elements of a weight vector.
        dtype: of a weight vector.
        slots: how many messages of ours may be unread at once before sends are skipped.
        fingerprint: of the model; members whose fingerprints differ cannot exchange.
        generation: how many members there have been on this seat at least.
        wire: what vectors are rounded to in the slots, where they need not be whole.

    Raises:
        ValueError: the seat does not exist or a living process has it, or shared memory is too small.
    """

    def __init__(
        self,
        directory: JobDirectory,
        seat: int,
        dimension: int,
        dtype: torch.dtype,
        slots: int,
        fingerprint: int = 0,
        generation: int = 0,
        wire: torch.dtype | None = None,
    ) -> None:
        super().__init__(directory)
        if not 0 <= seat < self.seats:
            raise ValueError(f"got seat {seat}, expected 0 to {self.seats - 1}; raise run.max_workers")
        self.dimension, self.dtype, self.fingerprint = dimension, dtype, fingerprint
        self._format = _FORMATS.index(wire) if wire is not None and wire.itemsize < dtype.itemsize else 0
        self.me = self._take(seat, generation)
        self._maps: dict[tuple[Member, int], Tensor] = {}
        self._growing: threading.Thread | None = None
        self._created = 0
        try:
            mapped = memoryview(map_file(self.file(self.me, "words"), self._size, create=True)).cast("Q")
            self.words: Words = mapped
            self._words[self.me] = mapped
            for _ in range(slots):
                self._create_slot()
        except ValueError:
            self.close()
            raise
        mapped[layout.DIMENSION] = dimension
        mapped[layout.FINGERPRINT] = fingerprint
        mapped[layout.STATE] = State.STARTING
        mapped[0] = layout.MAGIC

    def reachable(self, member: Member) -> bool:
        """Whether no partition lies between this member and another; see make_sides."""
        sides = self._sides
        return sides is None or sides[member.seat] == sides[self.me.seat]

    def appear(self) -> None:
        """Show this member to the others; its words must say by now what it holds."""
        self._fence()
        self.board[self.me.seat] = self.me.generation + 1

    def _take(self, seat: int, generation: int) -> Member:
        while True:
            member = Member(seat, generation)
            try:
                lock(self.file(member, "lock"))
                return member
            except FileExistsError:
                if not self.dead(member):
                    raise ValueError(
                        f"got seat {seat}, which a living process has; expected one process per rank, check RANK"
                    ) from None
                generation += 1

    def check(self, member: Member) -> None:
        """Refuse a living member that runs another model.

        Raises:
            ValueError: it does.
        """
        words = self.open(member)
        if words[0]:
            self.check_model(member, words[layout.DIMENSION], words[layout.FINGERPRINT])

    def check_model(self, member: Member, dimension: int, fingerprint: int) -> None:
        """Refuse a living member whose model is described so, if it is not this member's.

        Raises:
            ValueError: it is not.
        """
        if (dimension, fingerprint) != (self.dimension, self.fingerprint) and not self.dead(member):
            raise ValueError(
                f"got another model on worker {member.seat} than on worker {self.me.seat} ({dimension:,} and"
                f" {self.dimension:,} elements), expected the same model on every worker (names, shapes, dtype)"
            )

    def place(self, slot: int, whole: bool, receiver: Member) -> int:
        """How a slot is to be announced: its number, and above it the format of the vector in it."""
        return slot if whole else slot | self._format << _FORMAT_SHIFT

    def slot(self, member: Member, index: int) -> Tensor:
        """The vector [D] in a member's slot as `place` describes it, mapped at its first use."""
        self.wire(index)
        number = index & layout.SLOT_INDEX
        key = (member, number)
        if key not in self._maps:
            self._maps[key] = self.tensor(self.file(member, f"slot-{number}"), self.dimension)
        return self.formatted(self._maps[key], index)

    def formatted(self, whole: Tensor, index: int) -> Tensor:
        """The part of a slot that holds a vector of the format in `index`.

        Raises:
            ValueError: there is no such format.
        """
        dtype = self.wire(index)
        return whole if dtype == whole.dtype else whole.view(dtype)[: self.dimension]

    def wire(self, index: int) -> torch.dtype:
        """The format that `place` has put into `index`."""
        number = index >> _FORMAT_SHIFT
        if number >= len(_FORMATS):
            raise ValueError(f"got slot-{index}, expected one with a vector of a format from 0 to {len(_FORMATS) - 1}")
        dtype = _FORMATS[number] or self.dtype
        if dtype.itemsize > self.dtype.itemsize:
            raise ValueError(f"got a vector of {dtype}, expected no more than {self.dtype}")
        return dtype

    def publication(self, member: Member, create: bool = False) -> Tensor:
        """A member's two snapshots [2, D]; when they are made, the newest of those before it on its seat alone stay.

        A job whose members have all died goes on from what one of them had shown.
        """
        path = self.file(member, "published")
        if create:
            before = [self.file(Member(member.seat, age), "published") for age in range(member.generation)]
            for outdated in [file for file in before if file.exists()][:-1]:
                outdated.unlink(missing_ok=True)
        return self.tensor(path, 2 * self.dimension, create).view(2, self.dimension)

    def tensor(self, path: Path, elements: int, create: bool = False) -> Tensor:
        """A file as a tensor that shares its memory."""
        mapped: Any = map_file(path, elements * self.dtype.itemsize, create)
        return torch.frombuffer(mapped, dtype=self.dtype)

    def slots(self) -> int:
        """How many slots this member owns."""
        return self._created

    def grow(self) -> None:
        """Make one more slot in the background: reserving and touching pages takes far longer than a step."""
        if self._growing is not None and self._growing.is_alive():
            return
        _log.warning(
            "worker %d: every one of %d slots is pinned by an unread message; adding one (%d MB of shared memory)",
            self.me.seat,
            self._created,
            self.dimension * self.dtype.itemsize >> 20,
        )
        self._growing = threading.Thread(target=self._grow, name="gosgd-grow", daemon=True)
        self._growing.start()

    def _grow(self) -> None:
        try:
            self._create_slot()
        except (ValueError, OSError) as error:
            _log.warning("worker %d: no further slot, sends are skipped: %s", self.me.seat, error)

    def _let_grow(self) -> None:
        """Wait for a slot that is being added."""
        if self._growing is not None:
            self._growing.join()

    def _create_slot(self) -> None:
        index = self._created
        self._maps[(self.me, index)] = self.tensor(self.file(self.me, f"slot-{index}"), self.dimension, create=True)
        self._created += 1

    def discard(self, member: Member) -> None:
        """Unlink a member's slots; mappings of them that are in use stay valid until they are dropped."""
        for path in self.directory.path.glob(f"{member.seat}-{member.generation}.slot-*"):
            path.unlink(missing_ok=True)
        for key in [key for key in [*self._maps] if key[0] == member]:  # a slot may be being added
            del self._maps[key]

    def claim(self, name: str) -> bool:
        """Whether this member is the first to claim `name`: the file appears whole or not at all."""
        draft = self.file(self.me, f"claims-{name}")
        try:
            write_privately(draft, f"{self.me.seat} {self.me.generation}")
            os.link(draft, self.directory.path / f"claim-{name}")
        except (FileExistsError, FileNotFoundError):  # claimed already, or the job is over and its directory removed
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def claimant(self, name: str) -> Member | None:
        """Who claimed `name`."""
        try:
            seat, generation = map(int, (self.directory.path / f"claim-{name}").read_text().split())
        except FileNotFoundError:
            return None
        except ValueError:
            _log.warning("claim %s: what it holds makes no sense; ignored", name)
            return None
        return Member(seat, generation)

    def close(self) -> None:
        """Let go of the mappings and, last of all, of the lock: from then on this member counts as gone."""
        self._let_grow()
        self._maps.clear()
        unlock(self.file(self.me, "lock"))
