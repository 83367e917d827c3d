"""EASGD: workers are tied to a central variable w~ by an elastic force (Zhang et al. 2015; thesis 2.3.3.2).

An elastic move is w_m <- w_m - alpha (w_m - w~) and w~ <- w~ + alpha sum_m (w_m - w~), both from the old values: of all
workers together (sync, K of gossip.matrices.easgd), or of one worker by its own clock (async).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from gossip.matrices import check_alpha
from gossip.methods.base import METHODS, Exchange, log
from gossip.methods.collective import Collective
from gossip.methods.served import Served, ServedConfig
from gossip.server.protocol import Serving


class EASGDConfig(ServedConfig):
    """Options of `easgd`.

    Attributes:
        alpha: elastic rate of one worker; or give beta.
        beta: M alpha, 0.9 unless alpha is given.
        tau: move after every tau-th step, of all workers (sync) or of each worker by its own clock (async).
        mode: whether all workers move together, or each with the central variable alone.
        order: the elastic force after the local step (thesis), or taken at the weights before it (Zhang et al.), which
            takes one more vector of memory.
        server: of mode async: one process (the default), or a part in each worker, for workers of one host.
    """

    method: Literal["easgd"] = "easgd"
    alpha: float | None = Field(default=None, gt=0)
    beta: float | None = Field(default=None, gt=0)
    tau: int = Field(default=10, ge=1)
    mode: Literal["sync", "async"] = "sync"
    order: Literal["after_step", "before_gradient"] = "after_step"
    server: Serving | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.alpha is not None and self.beta is not None:
            raise ValueError(f"got alpha={self.alpha:g} and beta={self.beta:g}, expected one of them; beta is M alpha")
        if self.server is not None and self.mode == "sync":
            raise ValueError(
                f"got server={self.server} with mode=sync, expected none: only mode: async has a server; every worker"
                " of sync keeps its own replica of w~"
            )
        return self

    @property
    def serving(self) -> Serving | None:
        """The asynchronous form needs a server."""
        return (self.server or "process") if self.mode == "async" else None

    def check(self, workers: int) -> None:
        """Refuse a rate at which the moves diverge."""
        self.rate(workers)

    def rate(self, workers: int) -> float:
        """alpha for M workers.

        Raises:
            ValueError: the moves would diverge with it: of M workers at a time (sync), or of one (async).
        """
        alpha = self.alpha if self.alpha is not None else (0.9 if self.beta is None else self.beta) / workers
        check_alpha(workers if self.mode == "sync" else 1, alpha)
        return alpha


@METHODS.register(EASGDConfig)
class EASGD(Exchange):
    """Elastic averaging; makes the class that its `mode` asks for."""

    Options = EASGDConfig
    options: EASGDConfig

    def __new__(cls, *arguments: Any, **options: Any) -> EASGD:
        """The synchronous or the asynchronous class."""
        return object.__new__(_MODES.get(options.get("mode", "sync"), EASGDSync) if cls is EASGD else cls)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.alpha = self.options.rate(self.job.workers)
        self._moves = 0
        early = self.options.order == "before_gradient"
        self._held = torch.empty_like(self.flat.vector) if early else None

    @classmethod
    def variant(cls, options: Any) -> type[Exchange]:
        """The synchronous or the asynchronous class."""
        return _MODES[options.mode]

    def start(self, steps: int = 0, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Take part in the job, and keep the weights if the first step ends with a move taken at them."""
        received = super().start(steps, interrupted)
        self._hold()
        return received

    def step(self) -> None:
        """Count the step, and move when it is the turn."""
        self.count_step()
        if self.steps % self.options.tau == 0:
            self._elastic()
            self._moves += 1
        self._hold()

    def _hold(self) -> None:
        if self._held is not None and (self.steps + 1) % self.options.tau == 0:
            self._held.copy_(self.flat.vector)

    @property
    def _order(self) -> dict[str, str]:
        """What a trace says of a move that was taken at the weights before the last local step."""
        return {} if self._held is None else {"order": "before"}

    @abstractmethod
    def _elastic(self) -> None:
        """One elastic move of this worker's weights and w~."""

    def stats(self) -> dict[str, float | None]:
        """How often this worker moved."""
        return {"moves": self._moves}


class EASGDSync(EASGD, Collective):
    """All workers move together: one all_reduce gives S = sum_m w_m, and every worker moves its own replica of w~."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._center = torch.empty_like(self.flat.vector)
        self._sum = torch.empty_like(self.flat.vector)
        self._restored = False
        if self.job.rank == 0 and self.job.workers * self.alpha > 1:
            log.warning(
                "easgd: M alpha = %g is above 1: w~ overshoots the mean of the workers, and averaged variances (batch"
                " normalisation) may become negative; lower alpha or beta",
                self.job.workers * self.alpha,
            )

    def start(self, steps: int = 0, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Join the process group; w~ is what the workers start with, or what a checkpoint says."""
        received = super().start(steps, interrupted)
        if steps == 0 or not self._restored:
            self._total(self.flat.vector)
            self._center.copy_(self._sum.div_(self.job.workers))
        self._centered(self._center)
        return received

    def central(self) -> Tensor:
        """w~ [D], which is the same on every worker."""
        return self._center

    def _total(self, vector: Tensor) -> None:
        self._sum.copy_(vector)
        if self.job.workers > 1:
            dist.all_reduce(self._sum)

    def _elastic(self) -> None:
        w, center = self.flat.vector, self._center
        if self._held is None:
            self._total(w)
            w.lerp_(center, self.alpha)
        else:
            self._total(self._held)
            w.sub_(self._held.sub_(center), alpha=self.alpha)
        center.add_(self._sum.sub_(center, alpha=self.job.workers), alpha=self.alpha)
        self._met("elastic", alpha=self.alpha, **self._order)

    def _leave(self, timeout_s: float) -> bool:
        self.flat.vector.copy_(self._center)
        inference = np.zeros((self.job.workers + 1, self.job.workers + 1))
        inference[:, 0] = 1.0
        self._met("mix", matrix=inference.tolist())
        return self._part()

    def state_dict(self) -> dict[str, Any]:
        """w~."""
        return {"center": self._center}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore w~."""
        self._expect(state, "center")
        self._center.copy_(state["center"])
        self._restored = True


class EASGDAsync(EASGD, Served):
    """Each worker moves with w~ alone, by its own clock; nobody waits for another worker."""

    options: EASGDConfig

    def _elastic(self) -> None:
        at = self.center.elastic(self.flat.vector if self._held is None else self._held, self.alpha)
        if at is None:  # interrupted while there was no server: neither half is made
            return
        self.flat.vector.sub_(self.received(), alpha=self.alpha)
        self._moved("elastic", alpha=self.alpha, at=at, cuts=self.center.cuts, **self._order)

    def stats(self) -> dict[str, float | None]:
        """How often this worker moved, and what it waited for the server."""
        return super().stats() | self.served()


_MODES: dict[str, type[EASGD]] = {"sync": EASGDSync, "async": EASGDAsync}
