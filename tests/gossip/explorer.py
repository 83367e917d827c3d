"""Explores every interleaving of a few members that run the real protocol code, with a crash at every point.

A member's program is deterministic given what its loads return, so its local state *is* that list of results. The
explorer runs a program from its start with recorded results until it asks for one more access to shared memory, then
chooses whose access happens next. States already seen are not expanded again, which makes the search exhaustive for
the given programs: each load, store, proof of death and claim is one atomic step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gossip import layout
from gossip.layout import Member, State
from gossip.ledger import balance
from gossip.mail import Letter
from gossip.mass import share_out
from gossip.outbox import Outbox
from gossip.transports.base import Transport

PAYLOAD = 2
Access = tuple[Any, ...]
Memory = dict[Any, int]


class _Pause(BaseException):  # not an Exception: the code under test must not be able to swallow it
    def __init__(self, access: Access) -> None:
        self.access = access


class Tape:
    """Feeds recorded results to a program and stops it at the first access that has none."""

    def __init__(self, results: Sequence[int]) -> None:
        self._results = results
        self._next = 0

    def __call__(self, *access: Any) -> int:
        if self._next == len(self._results):
            raise _Pause(access)
        self._next += 1
        return self._results[self._next - 1]


class ModelWords:
    def __init__(self, tape: Tape, member: Member) -> None:
        self._tape, self._member = tape, member

    def __getitem__(self, index: int) -> int:
        return self._tape("load", (self._member, index))

    def __setitem__(self, index: int, value: int) -> None:
        self._tape("store", (self._member, index), value)


class ModelTransport(Transport):
    """Every touch of shared memory is an access the explorer schedules."""

    def __init__(self, tape: Tape, me: Member, seats: int, slots: int) -> None:
        self.me, self.seats, self._slots, self._tape = me, seats, slots, tape
        self.words = ModelWords(tape, me)

    def generations(self) -> list[int]:
        return [self._tape("load", ("generation", seat)) for seat in range(self.seats)]

    def appear(self) -> None:
        self._tape("store", ("generation", self.me.seat), self.me.generation + 1)

    def open(self, member: Member) -> ModelWords:
        return ModelWords(self._tape, member)

    def slot(self, member: Member, index: int) -> tuple[Member, int]:
        return member, index

    def slots(self) -> int:
        return self._slots

    def grow(self) -> None:
        self._slots += 1

    def dead(self, member: Member) -> bool:
        return bool(self._tape("dead", member))

    def discard(self, member: Member) -> None:
        self._tape("store", ("discarded", member), 1)

    def claim(self, name: str) -> bool:
        return bool(self._tape("claim", name, self.me))

    def claimant(self, name: str) -> Member | None:
        found = self._tape("load", ("claim", name))
        return Member(*divmod(found - 1, 1 << 20)) if found else None

    def close(self) -> None:
        pass


@dataclass
class Player:
    """What a program sees of its member: the outbox, and copy and merge that show a torn payload."""

    outbox: Outbox
    transport: ModelTransport
    tape: Tape
    letters: int = 0
    merged: list[int] = field(default_factory=list)

    def write(self, slot: tuple[Member, int], letter: Letter) -> None:
        self.letters += 1
        for word in range(PAYLOAD):
            self.tape("store", ("slot", *slot, word), self.letters * 100 + self.transport.me.seat)

    def merge(self, slot: tuple[Member, int], weight: float, step: int, letter: Letter) -> None:
        values = {self.tape("load", ("slot", *slot, word)) for word in range(PAYLOAD)}
        discarded = self.tape("load", ("discarded", slot[0]))
        assert values == {step * 100 + slot[0].seat}, f"torn or stale payload {values} in message {step} of {slot}"
        assert not discarded, "slots freed while mail in them was unread"
        assert 0 < weight <= 1
        assert letter.sender == slot[0]
        self.merged.append(step)

    def push(self, seat: int, whole: bool = False) -> bool:
        peer = next((peer for peer in self.outbox.peers if peer.member.seat == seat), None)
        shares = self.outbox.mass if whole else self.outbox.mass // 2
        return peer is not None and self.outbox.push(peer, shares, self.letters + 1, self.write)


Program = Callable[[Player], Any]


@dataclass(frozen=True)
class Scenario:
    """Members, what each runs, and how much may go wrong.

    Attributes:
        programs: each member's program; generation 0 of a seat below `founders` starts with its share of the mass.
        crashes: how many members may die, each at any point.
        mortal: the members that may die; all by default.
        born_later: members whose program begins by appearing, with nothing, in state JOINING.
        dead: members that have died before the search begins.
    """

    programs: dict[Member, Program]
    founders: int
    crashes: int = 1
    slots: int = 2
    mortal: frozenset[Member] | None = None
    born_later: frozenset[Member] = frozenset()
    dead: frozenset[Member] = frozenset()

    @property
    def seats(self) -> int:
        return max(member.seat for member in self.programs) + 1

    def genesis(self, member: Member) -> int:
        founder = member.generation == 0 and member.seat < self.founders
        return share_out(self.founders)[member.seat] if founder else 0


@dataclass
class Report:
    states: int = 0
    ends: int = 0
    outcomes: set[Any] = field(default_factory=set)


class Explorer:
    """Depth-first search over all schedules of a scenario.

    Args:
        check_end: called at every state in which no living member can go on, with {member: (outbox, result)}, the
            crashed members, and the ledger.
    """

    def __init__(self, scenario: Scenario, check_end: Callable[..., Any] | None = None) -> None:
        self.scenario = scenario
        self.check_end = check_end
        # A local state is a node in a tree of results: a number to compare, from which its list can be read back.
        self._nodes: dict[tuple[Member, int, int], int] = {}
        self._parents: list[tuple[int, int]] = [(-1, 0)]
        self._steps: dict[tuple[Member, int], tuple[str, Any]] = {}

    def run(self, limit: int = 2_000_000) -> Report:
        scenario, report = self.scenario, Report()
        members = sorted(scenario.programs)
        memory = self._initial(members)
        start = (tuple(0 for _ in members), scenario.dead)
        stack: list[tuple[Any, frozenset[Member], Memory]] = [(start[0], start[1], memory)]
        seen = {start}
        while stack:
            logs, crashed, memory = stack.pop()
            report.states += 1
            assert report.states < limit, "scenario too large to exhaust"
            live = [m for m in members if m not in crashed]
            steps = {m: self._step(m, logs[members.index(m)]) for m in live}
            movable = [m for m in live if steps[m][0] == "access" and self._born(m, memory)]
            if not movable:
                report.ends += 1
                if self.check_end:
                    ends = {m: steps[m][1] for m in live if steps[m][0] == "done"}
                    report.outcomes.add(self.check_end(ends, crashed, memory, self))
            following = []
            alone = next((m for m in movable if self._independent(m, steps[m][1], crashed)), None)
            movable = movable if alone is None else [alone]
            for member in movable:
                changed, result = self._perform(steps[member][1], memory, crashed)
                place = members.index(member)
                node = self._child(member, logs[place], result)
                following.append(((*logs[:place], node, *logs[place + 1 :]), crashed, changed))
            if len(crashed) < len(scenario.dead) + scenario.crashes and alone is None:
                for member in movable:
                    if scenario.mortal is None or member in scenario.mortal:
                        following.append((logs, crashed | {member}, {**memory, ("reaped", member): 1}))
            for state in following:
                if state[:2] not in seen:
                    seen.add(state[:2])
                    if state[2] is not memory:
                        ledger = self.ledger(state[2], state[1])
                        assert ledger.balanced, f"mass out of balance: {ledger}"
                    stack.append(state)
        return report

    @staticmethod
    def _independent(member: Member, access: Access, crashed: frozenset[Member]) -> bool:
        """A load that nobody else can influence any more: of one's own words, or of a dead member's.

        It commutes with everything the others may do, so it is taken at once instead of in every possible order.
        """
        kind, target = access[:2]
        return kind == "load" and isinstance(target[0], Member) and (target[0] == member or target[0] in crashed)

    def ledger(self, memory: Memory, crashed: frozenset[Member]) -> Any:
        size = layout.size(self.scenario.seats)
        born = [m for m in self.scenario.programs if self._born(m, memory)]
        words = {m: [memory.get((m, index), 0) for index in range(size)] for m in born}
        alive = {m for m in born if m not in crashed and words[m][layout.STATE] != State.GONE}
        return balance(words, alive, self.scenario.seats, self.scenario.founders)

    def _born(self, member: Member, memory: Memory) -> bool:
        predecessor = Member(member.seat, member.generation - 1)
        if predecessor in self.scenario.programs:  # a supervisor starts a successor only after it reaped the process
            return bool(memory.get(("reaped", predecessor), 0))
        return True

    def _initial(self, members: list[Member]) -> Memory:
        memory: Memory = {}
        for member in members:
            memory[(member, layout.GENESIS)] = self.scenario.genesis(member)
            if member not in self.scenario.born_later:
                memory[(member, layout.STATE)] = State.ACTIVE
                memory[("generation", member.seat)] = member.generation + 1
            else:
                memory[(member, layout.STATE)] = State.JOINING
        return memory | {("reaped", member): 1 for member in self.scenario.dead}

    def _child(self, member: Member, node: int, result: int) -> int:
        key = (member, node, result)
        if key not in self._nodes:
            self._nodes[key] = len(self._parents)
            self._parents.append((node, result))
        return self._nodes[key]

    def _results(self, node: int) -> list[int]:
        results = []
        while node:
            node, result = self._parents[node]
            results.append(result)
        return results[::-1]

    def _step(self, member: Member, node: int) -> tuple[str, Any]:
        key = (member, node)
        if key not in self._steps:
            tape = Tape(self._results(node))
            transport = ModelTransport(tape, member, self.scenario.seats, self.scenario.slots)
            outbox = Outbox(transport, self.scenario.genesis(member))
            player = Player(outbox, transport, tape)
            try:
                result = self.scenario.programs[member](player)
                self._steps[key] = ("done", (outbox.mass, tuple(player.merged), result))
            except _Pause as pause:
                self._steps[key] = ("access", pause.access)
        return self._steps[key]

    @staticmethod
    def _perform(access: Access, memory: Memory, crashed: frozenset[Member]) -> tuple[Memory, int]:
        kind, target = access[:2]
        if kind == "load":
            return memory, memory.get(target, 0)
        if kind == "store":
            return {**memory, target: access[2]}, 0
        if kind == "dead":
            return memory, int(target in crashed)
        assert kind == "claim"
        if ("claim", target) in memory:
            return memory, 0
        seat, generation = access[2]
        return {**memory, ("claim", target): (seat << 20) + generation + 1}, 1
