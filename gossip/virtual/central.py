"""The methods in which each worker meets a central variable by its own clock. Imports gossip.virtual.base."""

from __future__ import annotations

from typing import Any

from gossip.methods.downpour import DownpourConfig
from gossip.methods.easgd import EASGDConfig
from gossip.moves import Copy, Elastic, Flush
from gossip.virtual.base import EASGD, Virtual
from gossip.virtual.turns import Turn


class AsyncEASGD(EASGD):
    """Each worker and w~ move after every tau-th of the worker's own steps."""

    def setup(self, config: EASGDConfig) -> None:
        """As for the synchronous form."""
        super().setup(config)

    def _move(self, turn: Turn) -> None:
        # `count` follows at the end of the step: this one is the (count + 1)-th.
        for repeat, worker in turn.due(lambda counts: (counts + 1) % self._tau == 0):
            Elastic((worker,), self.center, self._alpha).apply(self.table.rows[repeat])
            self.sent += 2


class Downpour(Virtual):
    """Fetch w~, step, accumulate, push what has accumulated (Dean et al. 2012)."""

    def setup(self, config: DownpourConfig) -> None:
        """Take both periods."""
        self._fetch, self._push = config.n_fetch, config.n_push

    @staticmethod
    def beside(workers: int) -> int:
        """w~ and an accumulator a worker."""
        return 1 + workers

    def before_gradient(self, turn: Turn) -> None:
        """Step 0 fetches."""
        for repeat, worker in turn.due(lambda counts: counts % self._fetch == 0):
            Copy(worker, self.center).apply(self.table.rows[repeat])
            self.sent += 1

    def accumulate(self, turn: Turn, updates: Any) -> None:
        """Accumulators take the same updates as the workers."""
        turn.add(self.table.array[:, self.center + 1 :], updates)

    def after_update(self, turn: Turn) -> None:
        """Push and clear."""
        for repeat, worker in turn.due(lambda counts: (counts + 1) % self._push == 0):
            Flush(self.center, self.center + 1 + worker).apply(self.table.rows[repeat])
            self.sent += 1
