"""Downpour: workers fetch a central variable and push what their local steps add up to (Dean et al. 2012)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gossip.methods.base import MethodConfig


class DownpourConfig(MethodConfig):
    """Options of `downpour`.

    Attributes:
        n_fetch: a worker takes the central weights before every n_fetch-th of its steps, the first included.
        n_push: it adds what its steps have added up to, after every n_push-th.
    """

    method: Literal["downpour"] = "downpour"
    n_fetch: int = Field(default=10, ge=1)
    n_push: int = Field(default=10, ge=1)
