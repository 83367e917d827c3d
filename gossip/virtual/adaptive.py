"""GoSGD with `peers: adaptive` in the simulator. Imports gossip.adaptive and gossip.virtual.gossip."""

from __future__ import annotations

from operator import itemgetter

from gossip.adaptive import Adaptive, Standing
from gossip.mass import halve, merge_weight
from gossip.methods.gosgd import GoSGDConfig
from gossip.virtual.gossip import ConstantWeightConfig, GoSGD, PairwiseConfig
from gossip.virtual.turns import Turn


class AdaptiveGoSGD(GoSGD):
    """Every worker sends when and where it helps; each looks at all others, so that an event costs O(M)."""

    def setup(self, config: GoSGDConfig | PairwiseConfig | ConstantWeightConfig) -> None:
        """One choice a worker."""
        super().setup(config)
        self._minds: list[list[Adaptive]] = []

    def after_update(self, turn: Turn) -> None:
        """Not by chance alone."""
        if not self._minds:  # the generator is seeded by now
            everybody = range(self.workers)
            self._minds = [[Adaptive(self.rate, self.generator) for _ in everybody] for _ in self.table.rows]
        if len(self.living) > 1:
            for repeat, worker in turn.chosen(2.0):
                if self._minds[repeat][worker].step():
                    self.exchange(repeat, worker, turn.step)
        self.deliver(turn)

    def exchange(self, repeat: int, worker: int, step: int) -> None:
        """Send to whoever gains most, if that is worth a message."""
        minds, mind = self._minds[repeat], self._minds[repeat][worker]
        shares = halve(int(self.shares[repeat, worker]))[1]
        if not shares:
            return
        others = [other for other in self.living if other != worker]
        gains = mind.gains(shares, [Standing(int(self.shares[repeat, one]), minds[one].wandered) for one in others])
        for gain, other in sorted(zip(gains, others, strict=True), key=itemgetter(0), reverse=True):
            if not mind.worth(gain):
                return
            if other not in self.inbox[repeat]:
                mind.sent(gain)
                self.push(repeat, worker, other, step)
                return

    def _merge(self, repeat: int, worker: int, row: int, shares: int, sender: int) -> None:
        weight = merge_weight(int(self.shares[repeat, worker]), shares)
        self._minds[repeat][worker].merged(weight, self._minds[repeat][sender].wandered)
        super()._merge(repeat, worker, row, shares, sender)
