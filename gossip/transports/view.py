"""A job on one host seen from outside: who is in it, what its members' words say, who of them is alive.

Imports gossip.directory, gossip.fence, gossip.layout and gossip.open_files. Files of one member, `S-G` standing for
seat and generation: `S-G.lock` (its life), `S-G.words`, `S-G.slot-K`, `S-G.published`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from gossip import layout, open_files
from gossip.directory import JobDirectory, map_file
from gossip.fence import load as load_fence
from gossip.layout import Member, Words
from gossip.locks import Probe

_log = logging.getLogger("gosgd")
_SIDES = "sides"


def _map_words(path: Path, count: int, create: bool = False) -> memoryview:
    return memoryview(map_file(path, layout.WORD * count, create)).cast("Q")


def make_sides(directory: JobDirectory) -> memoryview:
    """Prepare a job to be cut in parts, as a network may be; to be called before its members come.

    Returns:
        The side of each seat; members on different sides cannot reach each other.
    """
    return _map_words(directory.path / _SIDES, directory.seats, create=True)


class View:
    """A job seen from outside: anybody of the same user may look, nobody notices.

    Args:
        directory: the job.
    """

    def __init__(self, directory: JobDirectory) -> None:
        open_files.allow()
        self.directory = directory
        self.seats = directory.seats
        self._size = layout.size(directory.seats) * layout.WORD
        self.board = _map_words(directory.path / "board", self.seats)
        sides = directory.path / _SIDES
        self._sides = _map_words(sides, self.seats) if sides.exists() else None
        self._fence = load_fence()
        self._seen = memoryview(bytes(layout.WORD * self.seats)).cast("Q")
        self._counts = [0] * self.seats
        self._words: dict[Member, memoryview] = {}
        self._probes: dict[Member, Probe | None] = {}

    def generations(self) -> Sequence[int]:
        """Per seat, how many members have taken it."""
        if self.board != self._seen:
            self._fence()
            self._seen = memoryview(bytes(self.board)).cast("Q")
            for seat, count in enumerate(self._seen):
                if count > self._counts[seat]:
                    self._believe(seat, count)
        return self._counts

    def _believe(self, seat: int, count: int) -> None:
        """Take note of new members, unless the newest has left no trace: its lock is made before it appears."""
        if self.file(Member(seat, count - 1), "lock").exists():
            for age in range(max(0, self._counts[seat] - 1), count - 1):
                self._mourn(Member(seat, age))
            self._counts[seat] = count
        elif self.directory.path.is_dir():  # else the job is over, and its files are gone
            _log.warning("worker %d: what it says of itself makes no sense (life %d); ignored", seat, count)

    def members(self) -> list[Member]:
        """The newest member of every seat that was ever taken."""
        return [Member(seat, count - 1) for seat, count in enumerate(self.generations()) if count]

    def everybody(self) -> list[Member]:
        """Every member that ever was."""
        return [Member(seat, age) for seat, count in enumerate(self.generations()) for age in range(count)]

    def file(self, member: Member, kind: str) -> Path:
        """The path of one of a member's files."""
        return self.directory.path / f"{member.seat}-{member.generation}.{kind}"

    def open(self, member: Member) -> Words:
        """A member's control words; zeros for one that died before it wrote any, or whose file holds something else."""
        if member not in self._words:
            self._words[member] = self._map(member)
            if member in self._probes and self._probes[member] is None:
                self._mourn(member)
        return self._words[member]

    def _map(self, member: Member) -> memoryview:
        nothing = memoryview(bytes(self._size)).cast("Q")
        try:
            mapped = memoryview(map_file(self.file(member, "words"), self._size)).cast("Q")
        except (OSError, ValueError) as error:
            if open_files.used_up(error):
                raise
            return nothing  # absent or empty: it died while making it
        if mapped[0] not in (0, layout.MAGIC):
            _log.warning("worker %d: its control words are none of ours (%#x); ignored", member.seat, mapped[0])
            return nothing
        return mapped

    def dead(self, member: Member) -> bool:
        """Whether the member's process is proven to be gone: nobody holds its lock."""
        if member not in self._probes:
            try:
                self._probes[member] = Probe(self.file(member, "lock"))
            except FileNotFoundError:
                self._probes[member] = None
        probe = self._probes[member]
        if probe is None:
            return True
        if probe.held():
            return False
        self._mourn(member)
        return True

    def _mourn(self, member: Member) -> None:
        """Keep of a member that is gone a copy of its words: a mapping would keep its file open for good."""
        probe = self._probes.get(member)
        if probe is not None:
            probe.close()
        self._probes[member] = None
        words = self._words.get(member)
        if words is not None and not words.readonly:
            self._words[member] = memoryview(bytes(words)).cast("Q")
