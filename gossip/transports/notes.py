"""What members of different hosts tell each other, as bytes. Imports gossip.layout and gossip.records.

Everything between two members is state, not events: a note says how its writer stands towards its reader, as the words
of its control segment do, and a later note replaces an earlier one. So a note may be lost, repeated or overtaken.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gossip import layout
from gossip.layout import IN_HOST, Member
from gossip.records import sign, verify

TAG = 8
"""Bytes at the beginning of every note that tell this job's from another's."""
_HELLO, _STANDING, _ENDED, _BOOKS = b"H", b"S", b"E", b"B"
_WORDS = layout.HEADER + 1 + layout.DETAILS_SIZE + 2
_STANDING_FORMAT = struct.Struct(f"<QQQQ{_WORDS}Q")
_MOST_WORDS = 1 << 22
_BOOKS_FORMAT = struct.Struct("<QQI")
_NUMBERS = ("dimension", "fingerprint", "words", "published", "initial", "device", "edition")
_ADDRESSES = ("slots", "on_device")


@dataclass(frozen=True)
class About:
    """How one member can be reached, and what may be read of it. Addresses are those of its own process.

    Attributes:
        member: which.
        metadata: of its agent.
        dimension: elements of its weight vector.
        fingerprint: of its model.
        words: address of its control words.
        slots: addresses of its slots.
        published: address of its two published snapshots; 0 while it has none.
        initial: address of the weights that founders begin with; 0 if it has none to offer.
        on_device: addresses of its slots in its GPU's memory; none if other hosts cannot read there.
        device: its GPU's number there; IN_HOST where what stands for a GPU's memory is the host's.
        edition: counted by the member when any of this changes; whatever comes later, the highest holds.
    """

    member: Member
    metadata: bytes
    dimension: int
    fingerprint: int
    words: int
    slots: Sequence[int] = ()
    published: int = 0
    initial: int = 0
    on_device: Sequence[int] = ()
    device: int = IN_HOST
    edition: int = 0

    def slot(self, word: int) -> tuple[int, int]:
        """Where the slot of a SLOT word is: its address, 0 if it is not told yet, and its GPU's number or IN_HOST."""
        addresses, device = (self.on_device, self.device) if word & layout.ON_DEVICE else (self.slots, IN_HOST)
        index = word & layout.SLOT_INDEX
        return addresses[index] if index < len(addresses) else 0, device

    def record(self) -> dict[str, Any]:
        """As anything that JSON can hold."""
        return {
            "member": list(self.member),
            "metadata": base64.b64encode(self.metadata).decode(),
            "dimension": self.dimension,
            "fingerprint": self.fingerprint,
            "words": self.words,
            "slots": list(self.slots),
            "published": self.published,
            "initial": self.initial,
            "on_device": list(self.on_device),
            "device": self.device,
            "edition": self.edition,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> About:
        """What `record` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            fields: dict[str, Any] = {name: int(record[name]) for name in _NUMBERS}
            fields |= {name: tuple(map(int, record[name])) for name in _ADDRESSES}
            seat, generation = map(int, record["member"])
            return cls(Member(seat, generation), base64.b64decode(record["metadata"]), **fields)
        except (LookupError, TypeError) as error:
            raise ValueError(f"got no description of a worker: {error}") from error


class Standing(NamedTuple):
    """How a member stands towards another.

    Attributes:
        member: whose.
        serial: of this note, counted by its writer.
        heard: serial of the newest note its writer had from its reader.
        header: of its control words.
        post: its announcement to the reader's seat: the word itself, then the details it selects.
        receipt: its receipt for the reader's seat: the word itself, then the running total it selects.
        ended: whether the member has ended, so that this is its last.
    """

    member: Member
    serial: int
    heard: int
    header: Sequence[int]
    post: Sequence[int]
    receipt: Sequence[int]
    ended: bool


class Final(NamedTuple):
    """All that a member's control words say when it has ended, for whoever audits the job: values by index."""

    member: Member
    words: Mapping[int, int]


def standing(words: layout.Words, seats: int, seat: int) -> tuple[list[int], list[int], list[int]]:
    """What control words say to the member on `seat`: header, post and receipt."""
    # The word that selects comes first: what it selects does not change before the reader has answered it.
    base = layout.post(seat)
    commit = words[base + layout.COMMIT]
    block = layout.details(seat, layout.sequence_of(commit))
    post = [commit, *(words[block + index] for index in range(layout.DETAILS_SIZE))]
    base = layout.receipt(seats, seat)
    acknowledged = words[base + layout.ACKNOWLEDGED]
    turn = bool(acknowledged & layout.FLAG)
    receipt = [acknowledged, words[base + layout.RECEIVED + turn]]
    return [words[index] for index in range(layout.HEADER)], post, receipt


@dataclass
class Notes:
    """Writes and reads notes of one job.

    Args:
        key: of the job, see gossip.records.
    """

    key: bytes
    tag: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.tag = sign(self.key, "tag", None)[:TAG]

    def hello(self, about: About) -> bytes:
        """How a member introduces itself; signed, because it decides whom the reader talks to."""
        return self.tag + _HELLO + sign(self.key, "hello", about.record())

    def tell(self, note: Standing) -> bytes:
        """How a member stands."""
        kind = _ENDED if note.ended else _STANDING
        numbers = (*note.member, note.serial, note.heard, *note.header, *note.post, *note.receipt)
        return self.tag + kind + _STANDING_FORMAT.pack(*numbers)

    def close(self, member: Member, words: layout.Words, size: int) -> bytes:
        """What a member that has ended leaves in its books."""
        used = {index: word for index in range(size) if (word := words[index])}
        content = struct.pack(f"<{len(used)}I{len(used)}Q", *used, *used.values())
        return self.tag + _BOOKS + _BOOKS_FORMAT.pack(*member, len(used)) + zlib.compress(content, 1)

    def read(self, note: bytes) -> About | Standing | Final:
        """What a note says.

        Raises:
            ValueError: it is none of this job's.
        """
        kind, content = note[TAG : TAG + 1], note[TAG + 1 :]
        if note[:TAG] != self.tag or kind not in (_HELLO, _STANDING, _ENDED, _BOOKS):
            raise ValueError("got a note of another job, or none at all")
        if kind == _HELLO:
            return About.of(verify(self.key, "hello", content))
        if kind == _BOOKS:
            return self._final(content)
        if len(content) != _STANDING_FORMAT.size:
            raise ValueError(f"got a note of {len(content)} bytes, expected {_STANDING_FORMAT.size}")
        seat, generation, serial, heard, *words = _STANDING_FORMAT.unpack(content)
        header, rest = words[: layout.HEADER], words[layout.HEADER :]
        post, receipt = rest[: 1 + layout.DETAILS_SIZE], rest[1 + layout.DETAILS_SIZE :]
        return Standing(Member(seat, generation), serial, heard, header, post, receipt, kind == _ENDED)

    def _final(self, content: bytes) -> Final:
        try:
            seat, generation, count = _BOOKS_FORMAT.unpack_from(content)
            if count > _MOST_WORDS:
                raise ValueError(f"got books of {count:,} words, expected at most {_MOST_WORDS:,}")
            unpacked = zlib.decompressobj().decompress(content[_BOOKS_FORMAT.size :], 12 * count)
            numbers = struct.unpack(f"<{count}I{count}Q", unpacked)
        except (struct.error, zlib.error) as error:
            raise ValueError(f"got books that cannot be read: {error}") from None
        return Final(Member(seat, generation), dict(zip(numbers[:count], numbers[count:], strict=True)))
