"""Explores every interleaving of a few members that run the real protocol code, with a crash at every point.

A member's program is a list of operations on its `Player`. Between two operations its local state is that object,
within one it is the object before it and what loads have returned since. The explorer runs an operation with recorded
results until it asks for one more access to shared memory, then chooses whose access happens next: each load, store,
proof of death and claim is one atomic step. A state is everybody's local state, who has crashed, and the memory; one
seen already is not expanded again, so the search is exhaustive for the given programs. What nobody can influence any
more (words of a member that has ended, one's own, words that are never written) is read without a step of its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelled import TAPE, Access, ModelTransport, Pause, Player, Scenario, Stream, number

from gossip import layout
from gossip.layout import Member, State
from gossip.ledger import balance
from gossip.mail import Counters, Letter
from gossip.mass import Ledger
from gossip.outbox import Outbox


class End(NamedTuple):
    """A member whose program is over: the mass it thinks it holds, and its outcome."""

    mass: int
    outcome: Any


@dataclass
class Report:
    """What was explored, and what `check_end` returned at the ends."""

    states: int = 0
    ends: int = 0
    outcomes: set[Any] = field(default_factory=set)


class _Node(NamedTuple):
    """A local state: results of loads since the operation at `base` began, and what comes next.

    Dying after one has read something is dying before that: nobody can tell the difference, so only one is tried.
    """

    base: int
    results: tuple[Any, ...]
    access: Access | None
    end: End | None
    may_crash: bool


_CRASHED = _OVER = -1
_LASTING = {"store", "claim", "merge"}


class Explorer:
    """Depth-first search over all schedules of a scenario.

    Args:
        check_end: called at every state in which no living member can go on, with {member: `End`} of those that have
            not crashed, and the ledger.
    """

    def __init__(self, scenario: Scenario, check_end: Callable[[dict[Member, End], Ledger], Any] | None = None) -> None:
        self.scenario, self.check_end = scenario, check_end
        self._members = sorted(scenario.programs)
        self._size = layout.size(scenario.seats)
        self._bases: dict[tuple[Member, int, bytes], int] = {}
        self._base_list: list[tuple[Member, int, bytes]] = []
        self._nodes: list[_Node] = []
        self._node_ids: dict[_Node, int] = {}
        self._children: dict[tuple[int, Any, bool], int] = {}
        self._addresses: dict[Any, int] = {}
        self._memories: list[tuple[int, ...]] = []
        self._memory_ids: dict[tuple[int, ...], int] = {}
        self._changes: dict[tuple[int, int, int], int] = {}
        self._balanced: set[tuple[int, int]] = set()

    def run(self, limit: int = 1_000_000) -> Report:
        scenario, members, report = self.scenario, self._members, Report()
        places = range(len(members))
        mortal = [scenario.mortal is None or member in scenario.mortal for member in members]
        before = [
            members.index(Member(member.seat, member.generation - 1)) if member.generation else -1 for member in members
        ]
        crashed = sum(1 << place for place in places if members[place] in scenario.dead)
        most = len(scenario.dead) + scenario.crashes
        local = tuple(
            _CRASHED if member in scenario.dead else self._go_on(member, 0, self._player(member)) for member in members
        )
        stack = [(local, crashed, self._start())]
        seen = set(stack)
        while stack:
            local, crashed, memory = stack.pop()
            report.states += 1
            assert report.states < limit, "scenario too large to exhaust"
            nodes = [self._nodes[node] if node != _CRASHED else None for node in local]
            running = [node is not None and node.access is not None for node in nodes]
            may_crash = crashed.bit_count() < most
            fragile = [may_crash and mortal[place] and nodes[place] is not None for place in places]
            born = [place for place in places if before[place] < 0 or crashed >> before[place] & 1]
            movable = [place for place in born if running[place]]
            if not movable:
                report.ends += 1
                if self.check_end:
                    ends = {members[p]: node.end for p, node in enumerate(nodes) if node and node.end}
                    report.outcomes.add(self.check_end(ends, self._ledger(memory, crashed)))
                continue
            following = []
            for place in movable:
                result = self._foregone(place, nodes[place].access, memory, crashed, running, fragile)
                if result is not None:
                    following = [(self._moved(local, place, result, nodes[place].may_crash), crashed, memory)]
                    break
            else:
                for place in movable:
                    for result, changed in self._perform(nodes[place].access, memory, crashed):
                        lasting = nodes[place].access[0] in _LASTING
                        following.append((self._moved(local, place, result, lasting), crashed, changed))
                for place in born:
                    if fragile[place] and nodes[place].may_crash:
                        following.append(
                            ((*local[:place], _CRASHED, *local[place + 1 :]), crashed | 1 << place, memory)
                        )
            for state in following:
                if state not in seen:
                    seen.add(state)
                    self._check(state[2], state[1])
                    stack.append(state)
        return report

    def _foregone(self, place: int, access: Access, memory: int, crashed: int, running: Any, fragile: Any) -> Any:
        """The result of an access whose result none of the others can influence any more; None if they can."""
        kind = access[0]
        if kind == "dead":
            of = self._members.index(access[1])
            return None if fragile[of] else crashed >> of & 1
        if kind != "load":
            return None
        owner = access[1][0]
        if owner == "slot":
            of = self._members.index(access[1][1])
            return None if running[of] and of != place else self._value(memory, access[1])
        if isinstance(owner, Member):
            of = self._members.index(owner)
            return None if running[of] else self._memories[memory][of * self._size : (of + 1) * self._size]
        if owner == "generation":
            last = max(member.generation for member in self._members if member.seat == access[1][1])
            value = self._value(memory, access[1])
            return value if value == last + 1 else None
        return None

    def _perform(self, access: Access, memory: int, crashed: int) -> list[tuple[Any, int]]:
        kind = access[0]
        if kind == "load":
            return [(self._value(memory, access[1]), memory)]
        if kind == "store":
            return [(0, self._changed(memory, access[1], access[2]))]
        if kind == "dead":
            return [(crashed >> self._members.index(access[1]) & 1, memory)]
        if kind == "choose":
            return [(0, memory), (1, memory)]
        if kind == "merge":
            return [(0, self._merged(memory, crashed, *access[1:]))]
        assert kind == "claim"
        if self._value(memory, access[1]):
            return [(0, memory)]
        return [(1, self._changed(memory, access[1], access[2]))]

    def _merged(self, memory: int, crashed: int, letter: Letter, by: Member) -> int:
        """Note who merged a message. Twice is allowed if the first died with it before it said that it had read it."""
        assert not self._value(memory, ("discarded", letter.sender)), "slots freed while mail in them was unread"
        earlier = self._value(memory, ("merged", letter))
        if earlier:
            first = Member(*divmod(earlier - 1, 1 << 20))
            receipt = layout.receipt(self.scenario.seats, letter.sender.seat) + layout.ACKNOWLEDGED
            said = self._value(memory, (first, receipt)) & ~layout.FLAG
            read = said >= layout.pack(letter.sequence, letter.sender.generation)
            died = crashed >> self._members.index(first) & 1 and first == letter.receiver and not read
            assert died, f"message {letter} was merged twice, by {first} and by {by}"
        return self._changed(memory, ("merged", letter), number(by))

    def _check(self, memory: int, crashed: int) -> None:
        if (memory, crashed) not in self._balanced:
            self._balanced.add((memory, crashed))
            ledger = self._ledger(memory, crashed)
            assert ledger.balanced, f"mass out of balance: {ledger}"

    def _ledger(self, memory: int, crashed: int) -> Ledger:
        words, alive, values = {}, set(), self._memories[memory]
        for place, member in enumerate(self._members):
            before = Member(member.seat, member.generation - 1)
            if before in self._members and not crashed >> self._members.index(before) & 1:
                continue
            words[member] = values[place * self._size : (place + 1) * self._size]
            if not crashed >> place & 1 and words[member][layout.STATE] != State.GONE:
                alive.add(member)
        return balance(words, alive, self.scenario.seats, self.scenario.founders)

    def _start(self) -> int:
        values = [0] * (len(self._members) * self._size)
        for place, member in enumerate(self._members):
            for index in range(self._size):
                self._addresses[(member, index)] = place * self._size + index
            for index, value in self.scenario.initial(member).items():
                values[place * self._size + index] = value
        memory = self._remember(tuple(values))
        for member in self._members:
            if member not in self.scenario.born_later:
                memory = self._changed(memory, ("generation", member.seat), member.generation + 1)
        return memory

    def _value(self, memory: int, address: Any) -> int:
        values, index = self._memories[memory], self._addresses.get(address)
        return values[index] if index is not None and index < len(values) else 0

    def _changed(self, memory: int, address: Any, value: int) -> int:
        index = self._addresses.setdefault(address, len(self._addresses))
        key = (memory, index, value)
        if key not in self._changes:
            values = list(self._memories[memory])
            values += [0] * (index + 1 - len(values))
            values[index] = value
            self._changes[key] = self._remember(tuple(values))
        return self._changes[key]

    def _remember(self, values: tuple[int, ...]) -> int:
        if values not in self._memory_ids:
            self._memory_ids[values] = len(self._memories)
            self._memories.append(values)
        return self._memory_ids[values]

    def _player(self, member: Member) -> Player:
        transport = ModelTransport(self.scenario, member)
        stream = Stream([]) if self.scenario.late else None
        return Player(Outbox(transport, self.scenario.genesis(member)), transport, stream)

    def _moved(self, local: tuple[int, ...], place: int, result: Any, may_crash: bool) -> tuple[int, ...]:
        key = (local[place], result, may_crash)
        if key not in self._children:
            node = self._nodes[local[place]]
            member, operation, player = self._base_list[node.base]
            self._children[key] = self._go_on(
                member, operation, pickle.loads(player), node.base, (*node.results, result), may_crash
            )
        return (*local[:place], self._children[key], *local[place + 1 :])

    def _go_on(
        self,
        member: Member,
        operation: int,
        player: Player,
        base: int | None = None,
        results: tuple[Any, ...] = (),
        may_crash: bool = True,
    ) -> int:
        """Run a member's program up to its next access; the number of the local state that this is."""
        program, outcome = self.scenario.programs[member], None
        while not isinstance(outcome, str) and operation < len(program):
            if base is None:
                player.outbox.counters = Counters()  # they decide nothing
                key = (member, operation, pickle.dumps(player))
                base = self._bases.setdefault(key, len(self._bases))
                if base == len(self._base_list):
                    self._base_list.append(key)
            TAPE.begin(results)
            try:
                outcome = program[operation](player)
            except Pause as pause:
                return self._numbered(_Node(base, results, pause.access, None, may_crash))
            operation, base, results = operation + 1, None, ()
        return self._numbered(_Node(_OVER, (), None, End(player.outbox.mass, outcome), may_crash))

    def _numbered(self, node: _Node) -> int:
        if node not in self._node_ids:
            self._node_ids[node] = len(self._nodes)
            self._nodes.append(node)
        return self._node_ids[node]
