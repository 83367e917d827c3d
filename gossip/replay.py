"""A recorded run as a sequence of matrices: the moves of all members in an order in which they can have happened.

Imports gossip.moves and numpy. Each member's own events are in order; what ties members together is that a message must
have been written before it is merged, that the workers make a collective move together, and that the moves of the
central variable are numbered. Any order that keeps to this ends in the same weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gossip.moves import Array, Average, Blend, Copy, Elastic, Flush, Merge, Mix, Move, State
from gossip.stacked import Part, Stack

CENTER = "center"
Event = dict[str, Any]
LocalStep = Callable[[str, int], None]
"""Makes a local step of the worker called so in the trace; the second argument is the step's number, from 1."""


@dataclass
class Trace:
    """What one member wrote down.

    Attributes:
        name: of its row.
        about: its first event.
        events: the others; those with a vector hold it as an array [D].
    """

    name: str
    about: Event
    events: list[Event]
    next: int = 0
    shards_done: set[int] = field(default_factory=set)

    @property
    def event(self) -> Event | None:
        """The next event to replay."""
        return self.events[self.next] if self.next < len(self.events) else None


def read(folder: Path) -> list[Trace]:
    """The traces of all members of a job.

    Raises:
        ValueError: there are none, or they are not what a job writes.
    """
    traces = [_read(path) for path in folder.glob("*.jsonl")]
    if not traces:
        raise ValueError(f"got {folder} without traces, expected a run with exchange.trace: events or updates")
    return sorted(traces, key=lambda trace: list(trace.about["member"]))


def _read(path: Path) -> Trace:
    events = list(_lines(path))
    if not events or events[0].get("do") != "begin":
        raise ValueError(f"{path}: got no beginning, expected the trace of a worker")
    about = events[0]
    dimension, dtype = about["dimension"], np.dtype(about["dtype"])
    vectors = path.with_suffix(".vectors")
    named = [event for event in events if event.get("vector")]
    if vectors.stat().st_size < len(named) * dimension * dtype.itemsize:
        raise ValueError(f"{vectors}: got fewer vectors than the trace names")
    if named:  # mapped, not read: they may be larger than memory
        stored = np.memmap(vectors, dtype, "r", shape=(len(named), dimension))
        for event, vector in zip(named, stored, strict=True):
            event["vector"] = vector
    return Trace(f"{about['member'][0]}.{about['member'][1]}", about, events[1:])


def _lines(path: Path) -> Iterator[Event]:
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return  # its writer was killed in the middle of it
        yield json.loads(line)


@dataclass(frozen=True)
class Deviation:
    """How far a member's replayed weights are from those it ended with.

    Attributes:
        member: its row's name.
        largest: max_i |replayed_i - real_i|.
        relative: the same over max_i |real_i|.
    """

    member: str
    largest: float
    relative: float


class Replay:
    """Replays the traces of one job.

    Args:
        traces: of all its members.
        state: where rows live; float64 arrays by default.
        local: makes the local steps that the traces name without storing them; needed for `trace: events`.

    Attributes:
        moves: how many of each kind were made.
        deviations: of the members that ended in good order.
    """

    def __init__(self, traces: list[Trace], state: State | None = None, local: LocalStep | None = None) -> None:
        self._traces = {trace.name: trace for trace in traces}
        self._local = local
        self.state: State = Stack() if state is None else state
        self.moves: Counter[str] = Counter()
        self.deviations: list[Deviation] = []
        self._turn = 0
        self._central: dict[int, int] = {}
        self._parts = 0
        self._accumulates = any(event["do"] == "flush" for trace in traces for event in trace.events)
        self._early = any("order" in event for trace in traces for event in trace.events)
        self._before: dict[str, Array] = {}
        # Usually one; more where a message was taken back whose receiver died before it could say that it had read it.
        merges = (event for trace in traces for event in trace.events if event["do"] == "merge")
        self._readers = Counter(event["message"] for event in merges)

    def run(self) -> None:
        """Make every recorded move.

        Raises:
            ValueError: the traces do not fit together; says which member waits for what.
        """
        while waiting := [trace for trace in self._traces.values() if trace.event is not None]:
            parts = self._parts
            # All of them, not any of them: each member is brought forward as far as it goes.
            went = sum(self._advance(trace) for trace in waiting) or self._parts > parts
            if not went and not self._together(waiting):
                raise ValueError(self._stuck(waiting))

    def apply(self, move: Move, state: State) -> None:
        """Make one move."""
        move.apply(state)

    def _stuck(self, waiting: list[Trace]) -> str:
        recorded = [event["at"] for trace in waiting for event in trace.events[trace.next :] if "at" in event]
        for shard, numbers in enumerate(zip(*recorded, strict=True)):
            if min(numbers) > (number := self._central.get(shard, 0) + 1):
                killed = "its worker was killed after it and before it could write it down"
                expected = "expected a run in which nobody was killed in a move"
                return f"got no record of move {number} of the central variable: {killed}; {expected}"
        stuck = "; ".join(f"worker {trace.name} waits to {_describe(trace.event)}" for trace in waiting)
        return f"got traces that do not fit together: {stuck}; expected those of one whole job"

    def _advance(self, trace: Trace) -> int:
        """Replay a member's events until one has to wait for another member; returns how many went."""
        count = 0
        while (event := trace.event) is not None and self._one(trace, event):
            trace.next += 1
            self.moves[event["do"]] += 1
            count += 1
        return count

    def _one(self, trace: Trace, event: Event) -> bool:
        row, do = trace.name, event["do"]
        if "turn" in event:
            return False
        if "at" in event:
            return self._centrally(trace, event)
        if do == "place":
            self._place(row, event["vector"])
        elif do == "center":
            self.state[CENTER] = event["vector"]
        elif do == "update":
            self._update(row, event)
        elif do == "push":
            if self._readers[event["message"]]:
                self.apply(Copy(event["message"], row), self.state)
        elif do == "merge":
            if event["message"] not in self.state:
                return False
            self.apply(Merge(row, event["message"], event["weight"]), self.state)
            self._readers[event["message"]] -= 1
            if not self._readers[event["message"]]:
                del self.state[event["message"]]
        elif do == "blend":
            others = [self._traces[name] for name in event["terms"] if name != row]
            if any(other.event is not None for other in others):
                return False
            self.apply(Blend(row, event["terms"]), self.state)
        elif do == "end":
            self._end(row, event["vector"])
        else:
            raise ValueError(f"got event {do!r} in the trace of worker {row}, expected one this version writes")
        return True

    def _place(self, row: str, vector: Array) -> None:
        self.state[row] = vector
        if self._accumulates:
            self.state[_accumulator(row)] = np.zeros_like(vector)
        if CENTER not in self.state:
            self.state[CENTER] = vector

    def _update(self, row: str, event: Event) -> None:
        if self._early:
            self._before[row] = np.array(self.state[row])
        if isinstance(event.get("vector"), np.ndarray):
            self.state[row] += event["vector"]
            if self._accumulates:
                self.state[_accumulator(row)] += event["vector"]
        elif self._local is not None:
            before = self.state[row].copy() if self._accumulates else None
            self._local(row, event["step"])
            if before is not None:
                self.state[_accumulator(row)] += self.state[row] - before
        else:
            raise ValueError("got a trace of events, without local updates; expected exchange.trace: updates")

    def _centrally(self, trace: Trace, event: Event) -> bool:
        """Make those shards' parts of a move whose turn it is; true when all are done."""
        cuts = event["cuts"]
        for shard, number in enumerate(event["at"]):
            if shard not in trace.shards_done and self._central.get(shard, 0) + 1 == number:
                for part, move in _central_moves(trace.name, event, cuts[shard], cuts[shard + 1]):
                    self._move([trace.name], event, move, part)
                self._central[shard] = number
                self._parts += 1
                trace.shards_done.add(shard)
        if len(trace.shards_done) < len(event["at"]):
            return False
        trace.shards_done.clear()
        return True

    def _together(self, waiting: list[Trace]) -> bool:
        """Make the collective move that every worker is waiting for."""
        events = [trace.event for trace in waiting if trace.event is not None]
        turns = {event.get("turn") for event in events}
        workers = waiting[0].about["workers"]
        if len(waiting) < workers or turns != {self._turn + 1}:
            return False
        rows = [trace.name for trace in waiting]
        for move in _collective_moves(rows, events):
            self._move(rows, events[0], move)
        self._turn += 1
        self.moves[events[0]["do"]] += 1
        for trace in waiting:
            trace.next += 1
        return True

    def _move(self, rows: Sequence[str], event: Event, move: Move, part: slice | None = None) -> None:
        """Make a move of some coordinates: K (W - eta V), or K W - eta V where it was taken before the local step."""
        state: State = self.state if part is None else Part(self.state, part)
        if event.get("order") != "before":
            self.apply(move, state)
            return
        before = {row: self._before[row] if part is None else self._before[row][part] for row in rows}
        updates = {row: state[row] - before[row] for row in rows}
        for row in rows:
            state[row] = before[row]
        self.apply(move, state)
        for row in rows:
            state[row] = state[row] + updates[row]

    def _end(self, row: str, vector: Array) -> None:
        real = vector.astype(np.float64)
        largest = float(np.abs(self.state[row] - real).max())
        self.deviations.append(Deviation(row, largest, largest / max(float(np.abs(real).max()), 1e-300)))


def _central_moves(row: str, event: Event, begin: int, end: int) -> list[tuple[slice, Move]]:
    """The moves of coordinates begin to end: a flush adds up parameters, and averages the buffers behind them."""
    if event["do"] == "elastic":
        return [(slice(begin, end), Elastic([row], CENTER, event["alpha"]))]
    if event["do"] == "fetch":
        return [(slice(begin, end), Copy(row, CENTER))]
    assert event["do"] == "flush"
    border = min(max(event["parameters"], begin), end)
    added, averaged = slice(begin, border), slice(border, end)
    return [(added, Flush(CENTER, _accumulator(row))), (averaged, Merge(CENTER, row, event["share"]))]


def _collective_moves(rows: list[str], events: list[Event]) -> list[Move]:
    if events[0]["do"] == "average":
        return [Average(rows)]
    if events[0]["do"] == "elastic":
        return [Elastic(rows, CENTER, events[0]["alpha"])]
    if events[0]["do"] == "mix":
        return [Mix([CENTER, *rows], np.array(events[0]["matrix"]))]
    raise ValueError(f"got collective move {events[0]['do']!r}, expected one this version writes")


def _accumulator(row: str) -> str:
    return f"accumulator of {row}"


def _describe(event: Event | None) -> str:
    assert event is not None
    return f"{event['do']} {event.get('message', '')}".rstrip()
