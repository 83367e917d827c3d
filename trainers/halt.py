"""How the workers of a collective method stop at the same step, whenever each of them hears of it. Imports gossip.

A worker that has been asked to stop stands still between two steps. It goes on if somebody is ahead of it, or in the
middle of a step that needs everybody, and is done when all stand at its step: nobody has a reason to move any more.
"""

from __future__ import annotations

import mmap
import os
import time

from gossip import layout
from gossip.job import Job


class Halt:
    """One word of shared memory a worker, written by it alone: twice the step it is at or makes, plus 1 if it stands.

    Args:
        job: whose workers stop together.
    """

    def __init__(self, job: Job) -> None:
        descriptor = os.open(job.directory.path / "halt", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, layout.WORD * job.workers)  # whoever comes first makes it
            self._memory = mmap.mmap(descriptor, layout.WORD * job.workers)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._memory).cast("Q")
        self._rank, self._here = job.rank, job.here  # those of other hosts are out of sight
        self._words[self._rank] = 0  # whatever an earlier life of this worker said
        self._deadline = 0.0

    def begin(self, step: int) -> None:
        """This worker makes its `step`-th local step."""
        self._words[self._rank] = 2 * step

    def asked(self) -> bool:
        """Whether another worker stands still."""
        return any(self._words[rank] & 1 for rank in self._here)

    def stand(self, step: int, patience_s: float) -> bool:
        """Stand still after `step` steps until all do.

        Args:
            patience_s: how long to wait for the others, from the first call on.

        Returns:
            False when this worker has to make another step: somebody else has begun it.

        Raises:
            TimeoutError: the others did not come to this step.
        """
        here = 2 * step + 1
        self._words[self._rank] = here
        self._deadline = self._deadline or time.monotonic() + patience_s
        while True:
            words = [self._words[rank] for rank in self._here]
            if any(word > here for word in words):
                return False
            if all(word == here for word in words):
                return True
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"the other workers did not come to step {step} within {patience_s:.0f} s")
            time.sleep(0.001)
