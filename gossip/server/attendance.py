"""Which workers are here, have left, or were lost, as a shard of the central variable sees it.

Imports gossip.directory and gossip.server.memory.
"""

from __future__ import annotations

from typing import Literal

from gossip.directory import JobDirectory
from gossip.server.memory import Memory

Seat = Literal["here", "left", "lost"]


class Attendance:
    """The list of seats.

    Args:
        directory: of the job, which waits for its founders at its start and at its end.
        restarts: whether somebody starts lost workers again, so that the job is not over without them.

    Attributes:
        ending: whether nobody is waited for any more.
    """

    def __init__(self, directory: JobDirectory, restarts: bool) -> None:
        self._directory, self._restarts = directory, restarts
        self._seats: dict[int, Seat] = {}
        self._memory: Memory | None = None
        self.ending = False

    def keep(self, memory: Memory, seats: int) -> None:
        """From now on the order in which workers leave is kept in `memory`; those that have left there are noted."""
        self._memory = memory
        self._seats |= {seat: "left" for seat in range(seats) if memory.left(seat)}

    @property
    def missing(self) -> list[int]:
        """Founders that were never seen, and may still come."""
        return [seat for seat in self._founders if seat not in self._seats]

    @property
    def _founders(self) -> list[int]:
        return [seat for seat in range(self._directory.founders) if not self._directory.given_up(seat)]

    @property
    def here(self) -> int:
        """How many are."""
        return sum(state == "here" for state in self._seats.values())

    def come(self, seat: int) -> None:
        """A worker begins, or begins again."""
        self._seats[seat] = "here"
        if self._memory is not None:
            self._memory.come(seat)

    def back(self, seat: int) -> None:
        """A worker that an earlier server has known is connected again, or one of another host that seemed lost."""
        if self._seats.get(seat) != "left":
            self._seats[seat] = "here"

    def others(self, seat: int) -> int:
        """How many workers beside this one are here, or may still come."""
        return sum(not self._gone(other) for other in self._everybody - {seat})

    def leave(self, seat: int) -> bool:
        """Whether this worker is the last to leave; it stays the last one if it has to ask again."""
        assert self._memory is not None
        order = self._memory.leave(seat)
        self._seats[seat] = "left"
        others = self._everybody - {seat}
        return all(self._gone(other) and self._memory.left(other) < order for other in others)

    def lose(self, seat: int, settled: bool) -> bool:
        """Its process is gone; whether without a word. One that had left, but was not done with it, is lost as well."""
        if self._seats[seat] == "left" and (settled or self.ending):
            return False
        self._seats[seat] = "lost"
        if self._memory is not None:
            self._memory.come(seat)
        return True

    @property
    def over(self) -> bool:
        """Whether nobody will come any more, if nobody is connected."""
        return self.ending or all(self._gone(seat) for seat in self._everybody)

    @property
    def _everybody(self) -> set[int]:
        """Founders, and whoever came later."""
        return {*self._founders, *self._seats}

    def _gone(self, seat: int) -> bool:
        state = self._seats.get(seat)
        return state == "left" or (state == "lost" and (self.ending or not self._restarts))
