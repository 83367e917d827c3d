"""What the methods share in which all workers meet in operations of torch.distributed. Imports gossip.methods.base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from gossip.layout import Member
from gossip.methods.base import Exchange
from gossip.publication import Published


class Collective(Exchange):
    """Base of the methods in which all workers meet in torch.distributed operations."""

    collective = True
    _owns_group = False
    _acquainted = False
    _turns = 0
    _gathered: Sequence[Published] = ()

    def meet(self) -> None:
        """Join torch.distributed's default group; `close` leaves it again if the program was not in it before.

        Raises:
            ValueError: the workers do not run the same model: their vectors would be averaged all the same.
        """
        if self.job.workers == 1 or self._acquainted:
            return
        if not dist.is_initialized():
            self.job.process_group(self.flat.vector.device)
            self._owns_group = True
        self._acquainted = True
        mine = torch.tensor([self.flat.dimension, self.flat.fingerprint], device=self.flat.vector.device)
        most = torch.cat([mine, -mine])
        dist.all_reduce(most, dist.ReduceOp.MAX)
        if not torch.equal(most[:2], -most[2:]):
            self.abandon()
            raise ValueError(
                f"got different models on the workers ({-most[2]:,} to {most[0]:,} elements), expected the same model"
                " on every worker (names, shapes, dtype)"
            )

    def start(self, steps: int = 0, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Join the process group and, at step 0, take the weights of rank 0, as DDP does."""
        self.meet()
        if self.job.workers > 1:
            if steps == 0:
                dist.broadcast(self.flat.vector, src=0)
            else:
                dist.barrier()  # nobody saves a checkpoint before all have read theirs
        return super().start(steps, interrupted)

    def publish(self) -> None:
        """Show a snapshot of the weights; where workers are on several hosts, rank 0 gets everybody's."""
        super().publish()
        if self.job.hosts is None:
            return
        vector, first = self.flat.vector, self.job.rank == 0
        vector = vector.cpu() if dist.get_backend() == "gloo" else vector  # which gathers no GPU's memory
        found = [torch.empty_like(vector) for _ in range(self.job.workers)] if first else None
        dist.gather(vector, found)
        self._gathered = [Published(Member(rank, 0), one, self.steps, 0) for rank, one in enumerate(found or [])]

    def published(self) -> list[Published]:
        """The newest snapshots of all workers."""
        return super().published() if self.job.hosts is None else [*self._gathered]

    def lowest(self) -> bool:
        """Whether this is the worker that evaluates."""
        return super().lowest() if self.job.hosts is None else self.job.rank == 0

    def total_done(self) -> int:
        """Local steps made by all workers together: they are at the same one."""
        return super().total_done() if self.job.hosts is None else self._done * self.job.workers

    def total_ever(self) -> int:
        """`total_done`, and the steps of an earlier job that this one resumes."""
        return super().total_ever() if self.job.hosts is None else self.steps * self.job.workers

    def hear(self, numbers: Sequence[int]) -> list[int]:
        """The whole numbers that rank 0 calls this with, once every worker has called it with as many."""
        self.meet()
        said = torch.tensor(numbers, dtype=torch.int64, device=self.flat.vector.device)
        if self.job.workers > 1:
            dist.all_reduce(said if self.job.rank == 0 else said.zero_())
        return [int(number) for number in said]

    def average(self) -> None:
        """W <- (1/M) 1 1^T W in one operation on the flat vector."""
        if self.job.workers > 1:
            dist.all_reduce(self.flat.vector)
            self.flat.vector.div_(self.job.workers)
        self._met("average")

    def _met(self, do: str, **fields: Any) -> None:
        """Note a move that all workers made together, as the so-and-so-many-th."""
        self._turns += 1
        self._moved(do, turn=self._turns, **fields)

    def _leave(self, timeout_s: float) -> bool:
        self.average()
        return self._part()

    def _part(self) -> bool:
        """Leave the process group when all do; True on the worker that is to hold w~."""
        if self.job.workers > 1:
            dist.barrier()
        if self._owns_group and dist.is_initialized():
            # gloo's threads may still let go of tensors, and abort a process whose interpreter has gone by then.
            dist.destroy_process_group()
        return self.job.rank == 0

    def abandon(self) -> None:
        """Leave the process group without meeting the others again.

        Only NCCL asks for it; gloo would wait here for operations that the others no longer take part in.
        """
        if self._owns_group and dist.is_initialized() and dist.get_backend() == "nccl":
            dist.destroy_process_group()
