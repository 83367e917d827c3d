"""The least that bringing weights to another host takes. Imports torch."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import torch

_PIECE = 1 << 17


class ByHand:
    """The least that bringing a vector to the other host takes: a copy, a socket there and back, a lerp.

    Args:
        vector: the weights.
        dtype: that they are sent in.
        peer: a connection to the other worker.
    """

    def __init__(self, vector: torch.Tensor, dtype: torch.dtype, peer: socket.socket) -> None:
        self._vector, self._peer = vector, peer
        self._mine, self._theirs = torch.empty_like(vector, dtype=dtype), torch.empty_like(vector, dtype=dtype)
        self._pool = ThreadPoolExecutor(1)

    def exchange(self) -> None:
        """Send and receive at the same time, and merge."""
        self._mine.copy_(self._vector)
        sending = self._pool.submit(self._peer.sendall, self._bytes(self._mine))
        left = self._bytes(self._theirs)
        while len(left):
            left = left[self._peer.recv_into(left) :]
        sending.result()
        pieces = (vector.split(_PIECE) for vector in (self._vector, self._theirs))  # type: ignore[no-untyped-call, unused-ignore]
        for mine, theirs in zip(*pieces, strict=True):
            mine.lerp_(theirs.to(mine.dtype), 0.5)

    @staticmethod
    def _bytes(tensor: torch.Tensor) -> memoryview:
        return tensor.view(torch.uint8).numpy().data.cast("B")


def connected(rank: int, address: str, port: int) -> socket.socket:
    """A connection between two workers; the first listens."""
    if rank:
        deadline = time.monotonic() + 30
        while True:
            try:
                return socket.create_connection((address, port))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    with socket.create_server((address, port)) as server:
        return server.accept()[0]
