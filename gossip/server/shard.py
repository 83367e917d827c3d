"""A shard's part of the central variable, and the moves it makes. Imports torch only.

Its state is one vector and one count: what a snapshot has to hold.
"""

from __future__ import annotations

from torch import Tensor


class Shard:
    """A slice of w~.

    Args:
        vector: [d], from now on the shard's own.
        weights: of its elements that are parameters; they come first, the buffers behind them.
        version: moves that w~ has behind it from earlier runs.

    Attributes:
        moves: made in this run; each is told its number, counted from 1.
    """

    def __init__(self, vector: Tensor, weights: int, version: int = 0) -> None:
        self.vector = vector
        self.moves = 0
        self._weights = weights
        self._earlier = version

    @property
    def version(self) -> int:
        """Moves that w~ has behind it."""
        return self._earlier + self.moves

    def peek(self, desk: Tensor) -> None:
        """desk <- w~, which counts as no move."""
        desk.copy_(self.vector)

    def fetch(self, desk: Tensor) -> None:
        """desk <- w~."""
        desk.copy_(self.vector)
        self.moves += 1

    def elastic(self, desk: Tensor, alpha: float) -> None:
        """d = desk - w~; w~ <- w~ + alpha d; desk <- d, of which the worker takes alpha off its weights."""
        self.vector.add_(desk.sub_(self.vector), alpha=alpha)
        self.moves += 1

    def flush(self, desk: Tensor, share: float) -> None:
        """w~ <- w~ + desk for parameters; averaged statistics b~ <- (1 - share) b~ + share desk: adding would not do.

        Args:
            desk: [d], accumulated updates of parameters, then the worker's buffers as they are.
            share: 1/M.
        """
        at = self._weights
        self.vector[:at].add_(desk[:at])
        self.vector[at:].lerp_(desk[at:], share)
        self.moves += 1
