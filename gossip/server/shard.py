"""A shard's part of the central variable, and the moves it makes. Imports gossip.server.memory and torch."""

from __future__ import annotations

import torch
from torch import Tensor

from gossip.server.memory import Memory


class Shard:
    """A slice of w~; its moves are made whole, or not at all, whenever the process is killed.

    Args:
        memory: where the slice is kept.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    @property
    def vector(self) -> Tensor:
        """w~ [d]."""
        return self.memory.vector

    @property
    def moves(self) -> int:
        """Made in this job; each is told its number, counted from 1."""
        return self.memory.moves

    @property
    def version(self) -> int:
        """Moves that w~ has behind it."""
        return self.memory.earlier + self.memory.moves

    def peek(self, desk: Tensor) -> None:
        """desk <- w~, which counts as no move."""
        desk.copy_(self.vector)

    def fetch(self, desk: Tensor, seat: int = 0, request: int = 0) -> None:
        """desk <- w~."""
        desk.copy_(self.vector)
        self.memory.commit(seat, request, moved=False)

    def elastic(self, desk: Tensor, alpha: float, seat: int = 0, request: int = 0) -> None:
        """d = desk - w~; w~ <- w~ + alpha d; desk <- d, of which the worker takes alpha off its weights."""
        torch.add(self.vector, desk.sub_(self.vector), alpha=alpha, out=self.memory.spare)
        self.memory.commit(seat, request, moved=True)

    def flush(self, desk: Tensor, share: float, seat: int = 0, request: int = 0) -> None:
        """w~ <- w~ + desk for parameters; averaged statistics b~ <- (1 - share) b~ + share desk: adding would not do.

        Args:
            desk: [d], accumulated updates of parameters, then the worker's buffers as they are.
            share: 1/M.
            seat: of the worker that asks.
            request: its number.
        """
        at, old, new = self.memory.weights, self.vector, self.memory.spare
        torch.add(old[:at], desk[:at], out=new[:at])
        torch.lerp(old[at:], desk[at:], share, out=new[at:])
        self.memory.commit(seat, request, moved=True)
