"""A seeded schedule of faults: kills, stops, losses of several workers at once, partitions. Pure; imports nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["kill", "kill_again", "kill_several", "stop", "partition"]
_JITTER = 0.3
_START_S = 0.2
"""About as long as a worker takes from the start of its process to its first step."""


class Fault(NamedTuple):
    """One fault of a schedule.

    Attributes:
        at_s: seconds after the start of the disturbance.
        kind: `kill`: SIGKILL; `kill_again`: also to the process that comes in its place; `kill_several`: at once;
            `stop`: SIGSTOP, later SIGCONT; `partition`: nobody reaches the victims, nor they anybody else.
        victims: seats.
        for_s: how long a stop or a partition lasts; how long after its start the successor is killed.
    """

    at_s: float
    kind: Kind
    victims: tuple[int, ...]
    for_s: float = 0.0


@dataclass(frozen=True)
class Plague:
    """How often each kind of fault comes, in seconds, 0 for never; and how long it lasts.

    Attributes:
        again: share of the kills whose victim's successor is killed, too, while it joins.
        several: how many workers are lost at once every `several_every`.
        partition_share: of the workers, that are cut off.
        seed: of victims and instants.
    """

    kill_every: float = 0.0
    stop_every: float = 0.0
    stop_for: float = 5.0
    partition_every: float = 0.0
    partition_for: float = 5.0
    several_every: float = 0.0
    several: int = 2
    again: float = 0.1
    partition_share: float = 0.5
    seed: int = 0

    def schedule(self, workers: int, duration_s: float) -> list[Fault]:
        """Faults in the order of time; each comes within 30 % of its period around its turn."""
        generator = random.Random(repr((self.seed, workers, duration_s)))
        found: list[Fault] = []

        def turns(every: float) -> list[float]:
            count = int(duration_s / every + 0.5) if every else 0
            return [(turn + 0.5 + generator.uniform(-_JITTER, _JITTER)) * every for turn in range(count)]

        for at in turns(self.kill_every):
            victim, again = (generator.randrange(workers),), generator.random() < self.again
            delay = generator.uniform(0, _START_S)
            found.append(Fault(at, "kill_again", victim, delay) if again else Fault(at, "kill", victim))
        for at in turns(self.stop_every):
            found.append(Fault(at, "stop", (generator.randrange(workers),), self.stop_for))
        for at in turns(self.several_every):
            lost = generator.sample(range(workers), min(self.several, workers - 1))
            found.append(Fault(at, "kill_several", tuple(sorted(lost))))
        for at in turns(self.partition_every):
            cut = generator.sample(range(workers), max(1, min(workers - 1, round(self.partition_share * workers))))
            found.append(Fault(at, "partition", tuple(sorted(cut)), self.partition_for))
        return sorted(fault for fault in found if fault.at_s <= duration_s)
