"""Control words of members of other hosts, as far as they are known here. Imports gossip.layout."""

from __future__ import annotations

from collections.abc import Callable

from gossip import layout
from gossip.layout import Words


class Mirror(dict[int, int]):
    """Words of a member elsewhere; those that nobody has told are 0."""

    def __missing__(self, index: int) -> int:
        return 0


class Watched:
    """This member's own control words; says when one was stored that others wait for.

    Args:
        words: the words themselves.
        seats: of the job.
        urgent: called with the seat of whoever waits for the word, or None where that is everybody.
    """

    def __init__(self, words: Words, seats: int, urgent: Callable[[int | None], None]) -> None:
        self._words, self._urgent = words, urgent
        self._for: dict[int, int | None] = {layout.STATE: None, layout.FINISHED: None, layout.PUBLISHED: None}
        for seat in range(seats):
            self._for[layout.post(seat) + layout.COMMIT] = seat
            self._for[layout.receipt(seats, seat) + layout.ACKNOWLEDGED] = seat

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = value
        if index in self._for:
            self._urgent(self._for[index])
