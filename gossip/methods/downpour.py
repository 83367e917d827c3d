"""Downpour: workers fetch a central variable w~ and push what their local steps add up to (Dean et al. 2012).

Before every n_fetch-th local step w_m <- w~; after every n_push-th w~ <- w~ + a_m and a_m <- 0, where a_m is the sum of
the updates that m has applied since its last push. The updates of all M workers add up in w~: where each of them takes
a learning rate as if it were alone, w~ moves M times as far.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gossip.methods.base import METHODS
from gossip.methods.served import Served, ServedConfig
from gossip.server.protocol import Serving


class DownpourConfig(ServedConfig):
    """Options of `downpour`.

    Attributes:
        n_fetch: a worker takes the central weights before every n_fetch-th of its steps, the first included.
        n_push: it adds what its steps have added up to, after every n_push-th.
        server: where w~ lives: one process, or a part in each worker, for workers of one host.
    """

    method: Literal["downpour"] = "downpour"
    n_fetch: int = Field(default=10, ge=1)
    n_push: int = Field(default=10, ge=1)
    server: Serving = "process"

    @property
    def serving(self) -> Serving:
        """w~ always needs a server."""
        return self.server


@METHODS.register(DownpourConfig)
class Downpour(Served):
    """Accumulated updates go to w~, w~ comes back.

    Only parameters are added up. Floating buffers (batch-norm statistics) are not sums of updates: a fetch brings w~'s
    and a push averages the worker's into them with weight 1/M, so that M pushes count them about once each.
    """

    Options = DownpourConfig
    options: DownpourConfig

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # The accumulator is the weights' way from here: keeping their origin costs nothing per step.
        self._origin = self.flat.vector.clone()
        self._unpushed = False
        self._pushes = self._fetches = 0

    def _enter(self, steps: int, fresh: bool) -> None:
        super()._enter(steps, fresh or steps % self.options.n_fetch == 0)
        self._origin.copy_(self.flat.vector)

    def step(self) -> None:
        """Count the step, push when it is the turn, and fetch what the next step is to start from."""
        self.count_step()
        self._unpushed = True
        if self.steps % self.options.n_push == 0:
            self._push()
        if self.steps % self.options.n_fetch == 0:
            self._fetch()

    def _push(self) -> None:
        w, parameters, center = self.flat.vector, self.flat.weights, self.center
        self._origin.neg_().add_(w)
        center.desk[:parameters].copy_(self._origin[:parameters])
        center.desk[parameters:].copy_(w[parameters:])
        share = 1.0 / self.job.workers
        at = center.flush(share)
        if at is None:  # interrupted while there was no server: the updates stay where they were
            self._origin.neg_().add_(w)
            return
        self._origin.copy_(w)
        self._unpushed = False
        self._pushes += 1
        self._moved("flush", at=at, cuts=center.cuts, parameters=parameters, share=share)

    def _fetch(self) -> None:
        at = self.center.fetch()
        if at is None:
            return
        w = self.flat.vector
        self._origin.sub_(w)
        w.copy_(self.center.desk)
        self._origin.add_(w)
        self._fetches += 1
        self._moved("fetch", at=at, cuts=self.center.cuts)

    def _finish(self) -> None:
        if self._unpushed:
            self._push()

    def stats(self) -> dict[str, float | None]:
        """How often this worker pushed and fetched, and what it waited for the server."""
        return {"pushes": self._pushes, "fetches": self._fetches} | self.served()

    def state_dict(self) -> dict[str, Any]:
        """w~. What it does not have yet is pushed first: who resumes from here must not push it a second time."""
        if self._joined:
            self._finish()
        return super().state_dict()
