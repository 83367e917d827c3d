"""Messages over TCP between the hosts of a job, and how both ends show that they are of the job.

Imports gossip.layout, gossip.records, gossip.server.protocol and torch. A frame is the lengths of what follows, a
message, and a vector or none. Whoever connects and whoever answers sign a number that the other has just drawn with the
job's key: neither is an impostor or a recording. What is sent after that is neither signed nor encrypted.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import struct
from collections.abc import Mapping
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import Tensor

from gossip import layout
from gossip.records import sign, verify
from gossip.server.protocol import LONGEST_MESSAGE, parse

_LENGTHS = struct.Struct("<IQ")
_SILENT_S, _PROBE_S, _PROBES = 3, 2, 3
REPORTED = (layout.STEP, layout.DONE, layout.EARLIER, layout.FINISHED)
"""Control words of a worker that go with each of its messages."""
DEAD_S = 10.0
"""After so long without a sign of the other end's host a connection counts as cut."""


class Frames:
    """One connection, used by one thread at a time; `end` may be called by any.

    Args:
        connected: the socket; closed with this object.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A cut link says nothing by itself: the kernel asks a silent host whether it is there, and gives up in time.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * DEAD_S))

    def patience(self, timeout_s: float | None) -> None:
        """How long the other end may be silent in the middle of an operation; None for as long as its host is there."""
        self._socket.settimeout(timeout_s)

    def send(self, message: Mapping[str, Any], vector: Tensor | None = None) -> None:
        """One message, and a vector with it if wanted."""
        text = json.dumps(message).encode()
        content = memoryview(b"") if vector is None else _bytes(vector)
        self._socket.sendall(_LENGTHS.pack(len(text), len(content)) + text)
        self._socket.sendall(content)

    def receive(self, place: Tensor | None = None) -> dict[str, Any]:
        """One message; a vector that comes with it goes to `place`.

        Raises:
            EOFError: nobody is left at the other end.
            OSError: likewise, or the link is cut.
            ValueError: it is no message, or its vector does not fit.
        """
        lengths = bytearray(_LENGTHS.size)
        self._fill(memoryview(lengths))
        length, size = _LENGTHS.unpack(lengths)
        room = memoryview(b"") if place is None else _bytes(place)
        if length > LONGEST_MESSAGE or size not in (0, len(room)):
            raise ValueError(f"got {length:,} bytes with {size:,} behind them, expected none or {len(room):,} there")
        text = bytearray(length)
        self._fill(memoryview(text))
        message = parse(bytes(text))
        self._fill(room[:size])
        return message

    def _fill(self, place: memoryview) -> None:
        while place:
            got = self._socket.recv_into(place)
            if not got:
                raise EOFError("the other end has gone")
            place = place[got:]

    def poll(self, timeout_s: float) -> bool:
        """Whether something comes within this time: a message, or the end."""
        return bool(wait([self._socket], timeout_s))

    def end(self) -> None:
        """Have whoever is at work on this connection fail now."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _bytes(vector: Tensor) -> memoryview:
    return vector.view(torch.uint8).numpy().data


def admit(frames: Frames, key: bytes) -> None:
    """Let somebody who connects show that it has the job's key, and show the same.

    Raises:
        ValueError: it has another key.
    """
    drawn = secrets.token_hex(32)
    frames.send({"drawn": drawn})
    try:
        theirs = str(verify(key, f"center client {drawn}", str(frames.receive()["record"]).encode()))
    except (ValueError, KeyError) as error:
        raise ValueError(f"got another secret than the server has: {error}") from None
    frames.send({"record": sign(key, f"center server {theirs}", drawn).decode()})


def introduce(frames: Frames, key: bytes) -> None:
    """Show a server whose first message is there that this end has the job's key, and have it show the same.

    Raises:
        ValueError: it has another key.
    """
    drawn, mine = frames.receive()["drawn"], secrets.token_hex(32)
    frames.send({"record": sign(key, f"center client {drawn}", mine).decode()})
    answer = frames.receive()
    if "refused" in answer:
        raise ValueError(str(answer["refused"]))
    if verify(key, f"center server {mine}", str(answer["record"]).encode()) != drawn:
        raise ValueError("got a record with another number, expected the one drawn")
