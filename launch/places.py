"""How a launcher comes to a job and leaves it: by making it (here) or by joining one that is running (launch.join).

Imports launch.plan and gossip.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from gossip.directory import JobDirectory
from launch.plan import Plan


class Place(ABC):
    """A launcher's place in a job.

    Args:
        plan: of the job.

    Attributes:
        ranks: of the workers that this launcher looks after; known once it has entered.
        serves: whether it looks after the job's server as well.
    """

    ranks: Sequence[int]
    serves = False

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._job: JobDirectory | None = None

    @abstractmethod
    def enter(self) -> JobDirectory:
        """Come to the job.

        Raises:
            ValueError: the job cannot be come to.
        """

    def leave(self) -> list[int]:
        """Leave the job when this launcher's workers have ended; whoever is last removes where they met.

        Returns:
            The seats that others have still.
        """
        if self._job is None:
            return []
        others = sorted(self._job.taken() - set(self.ranks))
        self._go(self._job, others)
        self._plan.directory.forget(self._job)
        return others

    @abstractmethod
    def _go(self, job: JobDirectory, others: Sequence[int]) -> None:
        """Give the job's directory up, with `others` still in it."""


class Founding(Place):
    """The place of the launcher that starts the job.

    Args:
        plan: of the job.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.ranks = range(plan.workers)
        self.serves = plan.serving == "process"

    def enter(self) -> JobDirectory:
        """Make the job's directory and the run's."""
        plan = self._plan
        job = self._job = JobDirectory.create(plan.seats, plan.workers)
        plan.directory.prepare(plan.loaded, plan.workers)
        plan.directory.announce(job)
        return job

    def _go(self, job: JobDirectory, others: Sequence[int]) -> None:
        if others:
            job.let_go()
        else:  # of its own workers, one that could not be ended does not keep it
            job.remove()
        self._plan.directory.let_go()
