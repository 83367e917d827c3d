"""Sum-weight arithmetic: a worker's weight lambda as integer shares. Pure; imports nothing of this project.

Floating-point halving would let the total drift and a ledger could only be checked up to a tolerance. Shares are
integers out of `TOTAL`, so every transfer conserves them exactly and lambda in a formula is shares / TOTAL.
"""

from __future__ import annotations

from dataclasses import dataclass

TOTAL = 1 << 62
"""Shares in a whole job: lambda = 1."""
SCANT = 1 << 20
"""Each death takes mass along, some half of it from a job of two. Where the living hold less than this in all, what
the dead held is issued again: a worker left with one share could feed nobody any more."""


def share_out(workers: int) -> list[int]:
    """The shares each worker starts with: lambda_m = 1/M, the indivisible rest going to the first ones.

    Args:
        workers: M, at least 1.

    Raises:
        ValueError: `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"got {workers} workers, expected at least 1")
    each, rest = divmod(TOTAL, workers)
    return [each + (worker < rest) for worker in range(workers)]


def halve(shares: int) -> tuple[int, int]:
    """(kept, sent) of a push: lambda_s <- lambda_s / 2 (thesis alg. 4), sender and message together exactly `shares`.

    The odd share stays with the sender, so a worker with one share sends nothing.
    """
    assert shares >= 0
    sent = shares // 2
    return shares - sent, sent


def merge_weight(own: int, incoming: int) -> float:
    """The weight of an incoming message in w_r <- (lambda_r w_r + lambda w) / (lambda_r + lambda).

    Args:
        own: the receiver's shares before the merge.
        incoming: the message's shares, at least 1.

    Returns:
        lambda / (lambda_r + lambda) in (0, 1]; exactly 1 for a receiver without mass, whose weights are replaced.
    """
    assert own >= 0 and incoming > 0
    return incoming / (own + incoming)


@dataclass(frozen=True)
class Ledger:
    """Where all shares of a job are at one instant; `balanced` is an equality of integers.

    Attributes:
        held: shares of the members that are alive, by (seat, generation).
        in_flight: shares of messages that a living member will still read or take back.
        lost: shares that died with their holders (and mail between two dead members), less what was `taken` again.
        taken: shares re-issued after every holder of mass had died.
        awaited: of those lost, shares of founders that have not come yet, and bring them if they do.
    """

    held: dict[tuple[int, int], int]
    in_flight: int
    lost: int
    taken: int
    awaited: int = 0

    @property
    def total(self) -> int:
        """Sum of held, in-flight and lost shares; `TOTAL` in every reachable state."""
        return sum(self.held.values()) + self.in_flight + self.lost

    @property
    def balanced(self) -> bool:
        """Whether every share is accounted for."""
        return self.total == TOTAL
