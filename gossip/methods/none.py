"""No exchange: M independent models, the control of every comparison. K = I."""

from __future__ import annotations

from typing import Literal

from gossip import layout
from gossip.layout import State
from gossip.methods.base import METHODS, Exchange, MethodConfig
from gossip.publication import consensus_of
from gossip.trace import row


class NoneConfig(MethodConfig):
    """Options of `none`."""

    method: Literal["none"] = "none"


@METHODS.register(NoneConfig)
class NoExchange(Exchange):
    """Workers that never meet; when all have finished, w~ is the mean of their weights."""

    Options = NoneConfig

    def step(self) -> None:
        """Count the step."""
        self.count_step()

    def _leave(self, timeout_s: float) -> bool:
        self.publish()
        self._words[layout.STATE] = State.GONE
        counts, directory = self.transport.generations(), self.job.directory
        if any(counts[seat] == 0 and not directory.given_up(seat) for seat in range(directory.founders)):
            return False  # a worker that is still starting will come last
        others = [member for member in self.transport.members() if member != self.me]
        if any(self._state(member) != State.GONE and not self.transport.dead(member) for member in others):
            return False
        if not self.transport.claim("last"):  # two may see each other gone
            return False
        published = self.published()
        self.flat.vector.copy_(consensus_of(published))
        self._moved("blend", terms={row(one.member): 1 / len(published) for one in published})
        return True
