"""EASGD: workers are tied to a central variable by an elastic force (Zhang et al. 2015; thesis 2.3.3.2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from gossip.matrices import check_alpha
from gossip.methods.base import MethodConfig


class EASGDConfig(MethodConfig):
    """Options of `easgd`.

    Attributes:
        alpha: elastic rate of one worker; or give beta.
        beta: M alpha, 0.9 unless alpha is given.
        tau: move after every tau-th step, of all workers (sync) or of each worker by its own clock (async).
        mode: whether all workers move together, or each with the central variable alone.
        order: the elastic force after the local step (thesis), or taken at the weights before it (Zhang et al.).
    """

    method: Literal["easgd"] = "easgd"
    alpha: float | None = Field(default=None, gt=0)
    beta: float | None = Field(default=None, gt=0)
    tau: int = Field(default=10, ge=1)
    mode: Literal["sync", "async"] = "sync"
    order: Literal["after_step", "before_gradient"] = "after_step"

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        if self.alpha is not None and self.beta is not None:
            raise ValueError(f"got alpha={self.alpha:g} and beta={self.beta:g}, expected one of them; beta is M alpha")
        return self

    def check(self, workers: int) -> None:
        """Refuse a rate at which the moves diverge."""
        self.rate(workers)

    def rate(self, workers: int) -> float:
        """alpha for M workers.

        Raises:
            ValueError: the moves would diverge with it (see gossip.matrices.easgd).
        """
        alpha = self.alpha if self.alpha is not None else (0.9 if self.beta is None else self.beta) / workers
        check_alpha(workers, alpha)
        return alpha
