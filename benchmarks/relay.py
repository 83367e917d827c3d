"""A slow, thin or lossy link between two network interfaces, for kernels that lack `tc netem`.

Run as `python relay.py ONE OTHER DELAY_S LOSS BITS_PER_S`: what comes in on ONE leaves OTHER that much later, or never;
what comes in on OTHER leaves ONE at once. Both ways carry so many bits a second, 0 for any number. Imports the standard
library only. Frames pass as they are, those that offloading has made larger than the wire takes included.
"""

from __future__ import annotations

import ctypes
import random
import select
import signal
import socket
import sys
import time
from collections import deque

_EVERYTHING = 0x0003
_SOL_PACKET, _VNET_HEADER, _IGNORE_OUTGOING = 263, 15, 23
_BUFFER_FORCE = {"in": 33, "out": 32}
_BUFFER = 64 << 20
_LARGEST = 1 << 17
_QUEUE_S = 1.0
"""What would wait longer for its turn is dropped, as at the end of a router's queue."""
_PARENT_DEATH_SIGNAL = 1


class Way:
    """One direction of the link.

    Args:
        come: the socket that frames come from.
        leave: the socket that they leave by.
    """

    def __init__(
        self, come: socket.socket, leave: socket.socket, delay_s: float, loss: float, bits_per_s: float
    ) -> None:
        self.come, self._leave = come, leave
        self._delay, self._loss, self._pace = delay_s, loss, 8 / bits_per_s if bits_per_s else 0.0
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._free = 0.0
        self._chance = random.Random(0)

    def take(self, now: float) -> None:
        """Take in what has come."""
        while True:
            try:
                frame = self.come.recv(_LARGEST)
            except BlockingIOError:
                return
            if self._loss and self._chance.random() < self._loss:
                continue
            if self._free - now > _QUEUE_S:
                continue
            self._free = max(self._free, now) + len(frame) * self._pace
            self._waiting.append((self._free + self._delay, frame))

    def give(self, now: float) -> None:
        """Let go of what is due."""
        while self._waiting and self._waiting[0][0] <= now:
            try:
                self._leave.send(self._waiting.popleft()[1])
            except OSError:
                continue  # the interface is down, or its queue is full

    def due(self) -> float:
        """When the next frame leaves."""
        return self._waiting[0][0] if self._waiting else float("inf")


def _tap(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(_SOL_PACKET, _VNET_HEADER, 1)
    made.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    for option in _BUFFER_FORCE.values():
        made.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    made.bind((interface, _EVERYTHING))
    made.setblocking(False)
    return made


def main(one: str, other: str, delay_s: float, loss: float, bits_per_s: float) -> None:
    """Carry frames until killed."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    here, there = _tap(one), _tap(other)
    ways = [Way(here, there, delay_s, loss, bits_per_s), Way(there, here, 0.0, 0.0, bits_per_s)]
    poll = select.poll()
    for way in ways:
        poll.register(way.come, select.POLLIN)
    print("up", flush=True)
    while True:
        wait = min(way.due() for way in ways) - time.monotonic()
        try:
            poll.poll(min(1000.0, max(0.0, 1e3 * wait)))
        except OSError:
            time.sleep(0.01)  # an interface is down
        now = time.monotonic()
        for way in ways:
            try:
                way.take(now)
            except OSError:
                time.sleep(0.01)
            way.give(now)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
