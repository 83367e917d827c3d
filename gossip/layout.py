"""Where every 64-bit control word of a member stands, and how announcements and receipts are packed into one word.

Imports nothing of this project. A member's control segment is an array of unsigned 64-bit words that only its owner
writes; peers read it. Everything that changes hands does so by one aligned store of one word:

    header    [HEADER]        life cycle, step counters, genesis shares, publication
    posts     [seats, POST]   per receiver: the announcement word, and two details blocks used in turn
    receipts  [seats, RECEIPT] per sender: the acknowledgement word, and two running totals used in turn

A details block is written before the announcement that selects it, a running total before the receipt that selects
it, so a reader (or a crash) sees the state before or after, never between.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

WORD = 8
MASK = (1 << 64) - 1
MAGIC = 0x676F736764_0001


class Words(Protocol):
    """An array of unsigned 64-bit words with single-word loads and stores (a cast memoryview, or a model of one)."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class Member(NamedTuple):
    """One incarnation: the `generation`-th process that took this `seat`. Ordered; the lowest seat comes first."""

    seat: int
    generation: int


class State(IntEnum):
    """Life cycle of a member; it only ever moves forward."""

    ABSENT = 0
    STARTING = 1
    JOINING = 2
    ACTIVE = 3
    LEAVING = 4
    GONE = 5


HEADER = 32
STATE = 1
STEP = 2  # position in the learning-rate schedule
DONE = 3  # local steps made by this incarnation itself
GENESIS = 4  # shares it was founded with
TAKEN = 5  # shares it re-issued after an extinction
DIMENSION = 6  # elements of its weight vector
FINGERPRINT = 7  # of its model
PUBLISHING = 8  # sequence number of the publication being written
PUBLISHED = 9  # sequence number of the newest complete one
PUBLICATION = 10  # two blocks (step, mass), used in turn
FINISHED = 14  # one of the next two once it makes no more local steps
HELD = 15  # shares it holds, as a hint for peers that choose adaptively
WANDERED = 16  # e of gossip.adaptive, in units of 1 / WANDERED_SCALE
EARLIER = 17  # local steps that an earlier job, which this one resumes, had made on its seat

AT_ITS_END, TAKEN_OUT = 1, 2
WANDERED_SCALE = 1 << 20

POST = 16
COMMIT = 0
GIVEN = 1  # shares given up of all that went to this seat
DETAILS = 2
DETAILS_SIZE = 4
SLOT, MASS, AT_STEP, SENT = range(DETAILS_SIZE)

SLOT_INDEX = (1 << 32) - 1
"""The part of a SLOT word that says which; what is above says in what format the vector lies there."""
ON_DEVICE = 1 << 40
"""In a SLOT word: the vector lies in the memory of its sender's GPU."""
IN_HOST = -1
"""In place of a GPU's number: memory of the host."""

RECEIPT = 4
ACKNOWLEDGED = 0
RECEIVED = 1

_SEQUENCE_BITS = 40
_SEQUENCE = (1 << _SEQUENCE_BITS) - 1
_GENERATION = (1 << 22) - 1
FLAG = 1 << 62
"""In an announcement: taken back by its sender. In a receipt: which running total is valid."""
GIVEN_UP = 1 << 63
"""In an announcement: its receiver is gone, and whether it has read it will never be known."""


def size(seats: int) -> int:
    """Words in a control segment of a job with this many seats."""
    return HEADER + seats * (POST + RECEIPT)


def post(seat: int) -> int:
    """First word of the post for the receiver on `seat`."""
    return HEADER + seat * POST


def details(seat: int, sequence: int) -> int:
    """First word of the details block that announcement `sequence` to `seat` uses."""
    return post(seat) + DETAILS + DETAILS_SIZE * (sequence & 1)


def receipt(seats: int, seat: int) -> int:
    """First word of the receipt for the sender on `seat`."""
    return HEADER + seats * POST + seat * RECEIPT


def pack(sequence: int, generation: int) -> int:
    """One word from a sequence number and the generation of the member on the other side."""
    assert 0 <= sequence <= _SEQUENCE and 0 <= generation <= _GENERATION
    return generation << _SEQUENCE_BITS | sequence


def sequence_of(word: int) -> int:
    """The sequence number in an announcement or a receipt."""
    return word & _SEQUENCE


def generation_of(word: int) -> int:
    """The other side's generation in an announcement or a receipt."""
    return word >> _SEQUENCE_BITS & _GENERATION
