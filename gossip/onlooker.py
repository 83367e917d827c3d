"""What an exchange tells of its worker and of the others, to whoever evaluates or asks how far the job is.

Imports gossip's flat, layout, publication and the shared-memory transport. Nothing here waits for another worker.
"""

from __future__ import annotations

from torch import Tensor

from gossip import layout
from gossip.flat import Flat
from gossip.layout import Member, State
from gossip.publication import Published, Publisher
from gossip.transports.shared_memory import SharedMemory


class Onlooker:
    """The part of every exchange method that looks on.

    Attributes:
        flat: the weights.
        transport: where the members of the job are seen.
        steps: local steps this worker's weights have behind them; a worker that joins late starts at its peers' count.
    """

    flat: Flat
    transport: SharedMemory
    steps: int
    _publisher: Publisher | None = None

    @property
    def me(self) -> Member:
        """This worker's seat and which incarnation on it this process is."""
        return self.transport.me

    @property
    def mass(self) -> int:
        """Shares this worker holds; 0 for methods without mass."""
        return 0

    def publish(self) -> None:
        """Show a snapshot of the weights to whoever evaluates; never waits."""
        self.publisher.publish(self.flat.vector, self.steps, self.mass)

    @property
    def publisher(self) -> Publisher:
        """Publications of this job; made at first use, because they take two vectors of shared memory."""
        if self._publisher is None:
            self._publisher = Publisher(self.transport)
        return self._publisher

    def published(self) -> list[Published]:
        """The newest snapshot of every member that is alive or left at its end; of those taken out if all were."""
        there = [m for m in self.transport.members() if self._state(m) == State.GONE or not self.transport.dead(m)]
        stayed = [member for member in there if self.transport.open(member)[layout.FINISHED] != layout.TAKEN_OUT]
        found = [self.publisher.read(member) for member in stayed or there]
        return [one for one in found if one is not None]

    def central(self) -> Tensor | None:
        """The central variable w~ [D] as it is now, of methods that keep one; else w~ is the mean of the workers."""
        return None

    def lowest(self) -> bool:
        """Whether this is the lowest living worker that still trains, the one that evaluates."""
        return not any(
            member < self.me
            and self.transport.reachable(member)
            and not self._finished(member)
            and not self.transport.dead(member)
            for member in self.transport.members()
        )

    def _finished(self, member: Member) -> bool:
        words = self.transport.open(member)
        return bool(words[layout.FINISHED]) or words[layout.STATE] == State.GONE

    def _state(self, member: Member) -> int:
        return self.transport.open(member)[layout.STATE]

    def total_ever(self) -> int:
        """`total_done`, and the steps of an earlier job that this one resumes."""
        everybody = map(self.transport.open, self.transport.everybody())
        return sum(words[layout.DONE] + words[layout.EARLIER] for words in everybody)

    def total_done(self) -> int:
        """Local steps made by all members together, the dead ones' included."""
        return sum(self.transport.open(member)[layout.DONE] for member in self.transport.everybody())
