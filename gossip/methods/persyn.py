"""PerSyn: all workers average their weights periodically (thesis alg. 2).

K has every row (0, 1/M, ..., 1/M) at a synchronisation and is the identity else; the central variable keeps its row
(the printed zero row would erase it).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from gossip.methods.base import METHODS, MethodConfig
from gossip.methods.collective import Collective


class PerSynConfig(MethodConfig):
    """Options of `persyn`: a period or a rate.

    Attributes:
        tau: synchronise after every tau-th step.
        rho: synchronisations per step, where 1/rho need not be whole.
    """

    method: Literal["persyn"] = "persyn"
    tau: int | None = Field(default=None, ge=1)
    rho: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.tau is None) == (self.rho is None):
            raise ValueError(f"got tau={self.tau} and rho={self.rho}, expected exactly one of them, such as tau: 10")
        return self

    def synchronises(self, step: int) -> bool:
        """Whether the exchange after the `step`-th update (counted from 0) is a synchronisation.

        With a rate: iff floor((t+1) rho) > floor(t rho), in exact arithmetic on the decimal number
        the user wrote, because 0.29 * 100 is less than 29 in floating point.
        """
        if self.tau is not None:
            return (step + 1) % self.tau == 0
        rate = Fraction(str(self.rho))
        return (step + 1) * rate.numerator // rate.denominator > step * rate.numerator // rate.denominator


@METHODS.register(PerSynConfig)
class PerSyn(Collective):
    """Local SGD with a periodic average over all workers, in one all_reduce of the flat vector."""

    Options = PerSynConfig
    options: PerSynConfig

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.synchronisations = 0

    def step(self) -> None:
        """Count the step, and average when it is the turn."""
        self.count_step()
        if self.options.synchronises(self.steps - 1):
            self.average()
            self.synchronisations += 1

    def stats(self) -> dict[str, float | None]:
        """How often the workers met."""
        return {"synchronisations": self.synchronisations}
