"""A model of the place where members meet, in which every touch of shared memory can be scheduled by the explorer.

`TAPE` gives an operation the results it is known to have had so far and stops it at the first access without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gossip import layout
from gossip.layout import Member, State
from gossip.mail import Letter
from gossip.mass import share_out
from gossip.outbox import Outbox
from gossip.transports.base import Transport

PAYLOAD = 2
Access = tuple[Any, ...]


class Pause(BaseException):  # not an Exception: the code under test must not be able to swallow it
    def __init__(self, access: Access) -> None:
        self.access = access


class Tape:
    """Feeds recorded results to an operation and stops it at the first access that has none."""

    def __init__(self) -> None:
        self.begin(())

    def begin(self, results: Sequence[Any]) -> None:
        self._results = results
        self._next = 0
        self.final: dict[Member, Sequence[int]] = {}

    def __call__(self, *access: Any) -> Any:
        if self._next == len(self._results):
            raise Pause(access)
        self._next += 1
        return self._results[self._next - 1]


TAPE = Tape()


@dataclass
class ModelWords:
    """A member's words; its own are known to it, and those of a member that has ended are all read at once."""

    member: Member
    seats: int
    own: bool
    known: dict[int, int]

    def __getitem__(self, index: int) -> int:
        if self.own or not self._changes(index):
            return self.known.get(index, 0)
        if self.member not in TAPE.final:
            answer = TAPE("load", (self.member, index))
            if isinstance(answer, int):
                return answer
            TAPE.final[self.member] = answer
        return TAPE.final[self.member][index]

    def __setitem__(self, index: int, value: int) -> None:
        assert self.own and self._changes(index), f"word {index} is not one that {self.member} was expected to write"
        TAPE("store", (self.member, index), value)
        self.known[index] = value

    def _changes(self, index: int) -> bool:
        if index < layout.HEADER:
            return index in (layout.STATE, layout.TAKEN)
        seat, offset = divmod(index - layout.HEADER, layout.POST)
        if seat < self.seats:
            end = layout.DETAILS + 2 * layout.DETAILS_SIZE
            return seat != self.member.seat and (offset == layout.COMMIT or layout.DETAILS <= offset < end)
        seat, offset = divmod(index - layout.receipt(self.seats, 0), layout.RECEIPT)
        return seat != self.member.seat and offset <= layout.RECEIVED + 1


class ModelTransport(Transport):
    """Every touch of shared memory is an access the explorer schedules."""

    def __init__(self, scenario: Scenario, me: Member) -> None:
        self.me, self.seats, self._slots = me, scenario.seats, scenario.slots
        self._initial = {member: scenario.initial(member) for member in scenario.programs}
        self._cut = scenario.cut
        self._growing = False
        self.words = ModelWords(me, self.seats, True, self._initial[me])

    def generations(self) -> list[int]:
        return [TAPE("load", ("generation", seat)) for seat in range(self.seats)]

    def appear(self) -> None:
        TAPE("store", ("generation", self.me.seat), self.me.generation + 1)

    def open(self, member: Member) -> ModelWords:
        return self.words if member == self.me else ModelWords(member, self.seats, False, self._initial[member])

    def slot(self, member: Member, index: int) -> tuple[Member, int]:
        return member, index

    def slots(self) -> int:
        if self._growing and TAPE("choose"):
            self._growing = False
            self._slots += 1
        return self._slots

    def grow(self) -> None:
        self._growing = True

    def dead(self, member: Member) -> bool:
        return bool(TAPE("dead", member))

    def reachable(self, member: Member) -> bool:
        return not self._cut or bool(TAPE("choose"))

    def discard(self, member: Member) -> None:
        TAPE("store", ("discarded", member), 1)

    def claim(self, name: str) -> bool:
        return bool(TAPE("claim", ("claim", name), number(self.me)))

    def claimant(self, name: str) -> Member | None:
        found = TAPE("load", ("claim", name))
        return Member(*divmod(found - 1, 1 << 20)) if found else None

    def close(self) -> None:
        pass


def number(member: Member) -> int:
    return (member.seat << 20) + member.generation + 1


@dataclass
class Stream:
    """A device that does what it was asked to as late as it may: when somebody is told that it is done."""

    asked: list[Callable[[], None]]
    done: int = 0

    def run(self, until: int) -> None:
        while self.done < until:
            self.asked[self.done]()
            self.done += 1


@dataclass
class Late:
    """The event behind the first `until` works of a stream."""

    stream: Stream
    until: int

    def query(self) -> bool:
        if self.stream.done < self.until and not TAPE("choose"):
            return False
        self.stream.run(self.until)
        return True

    def synchronize(self) -> None:
        self.stream.run(self.until)


@dataclass
class Player:
    """What a program sees of its member: the outbox, and copy and merge that show a torn or a doubled payload.

    Attributes:
        stream: of a device that copies and merges; None for a host that does so at once.
    """

    outbox: Outbox
    transport: ModelTransport
    stream: Stream | None = None
    letters: int = 0
    fed: bool = False

    def _ask(self, work: Callable[[], None]) -> Late | None:
        if self.stream is None:
            work()
            return None
        self.stream.asked.append(work)
        return Late(self.stream, len(self.stream.asked))

    def write(self, slot: tuple[Member, int], letter: Letter) -> Late | None:
        self.letters += 1
        return self._ask(partial(self._store, slot, self.letters * 100 + self.transport.me.seat))

    def _store(self, slot: tuple[Member, int], value: int) -> None:
        for word in range(PAYLOAD):
            TAPE("store", ("slot", *slot, word), value)

    def merge(self, slot: tuple[Member, int], weight: float, step: int, letter: Letter) -> Late | None:
        return self._ask(partial(self._merge, slot, weight, step, letter))

    def _merge(self, slot: tuple[Member, int], weight: float, step: int, letter: Letter) -> None:
        values = {TAPE("load", ("slot", *slot, word)) for word in range(PAYLOAD)}
        assert values == {step * 100 + slot[0].seat}, f"torn or stale payload {values} in message {step} of {slot}"
        assert 0 < weight <= 1
        assert letter.sender == slot[0]
        TAPE("merge", letter, self.transport.me)

    def push(self, seat: int, whole: bool = False) -> bool:
        peer = next((peer for peer in self.outbox.peers if peer.member.seat == seat), None)
        shares = self.outbox.mass if whole else self.outbox.mass // 2
        return peer is not None and self.outbox.push(peer, shares, self.letters + 1, self.write)


Operation = Callable[[Player], Any]
"""One that returns a string ends its member's program with that outcome."""


@dataclass(frozen=True)
class Scenario:
    """Members, what each runs, and how much may go wrong.

    Attributes:
        programs: each member's operations; generation 0 of a seat below `founders` starts with its share of the mass.
            A member whose predecessor on the seat has a program begins when that one has crashed.
        crashes: how many members may die, each at any point.
        mortal: the members that may die; all by default.
        born_later: members whose program begins by appearing, with nothing, in state JOINING.
        dead: members that have died before the search begins.
        cut: whether members may be out of each other's reach, and again in it, at any moment.
        late: whether copies and merges are made by a device, some time after they were asked for.
    """

    programs: dict[Member, Sequence[Operation]]
    founders: int
    crashes: int = 1
    slots: int = 2
    mortal: frozenset[Member] | None = None
    born_later: frozenset[Member] = frozenset()
    dead: frozenset[Member] = frozenset()
    cut: bool = False
    late: bool = False

    @property
    def seats(self) -> int:
        return max(member.seat for member in self.programs) + 1

    def genesis(self, member: Member) -> int:
        founder = member.generation == 0 and member.seat < self.founders
        return share_out(self.founders)[member.seat] if founder else 0

    def initial(self, member: Member) -> dict[int, int]:
        state = State.JOINING if member in self.born_later else State.ACTIVE
        return {layout.GENESIS: self.genesis(member), layout.STATE: int(state)}
