"""One worker of a run, from its start to its end. Imports every package below launch.

A batch's way: data, model, loss and regularizers, backward, optimizer step, `exchange.step()`, metrics.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import gossip
from configs.files import to_json, write_atomically
from gossip.consensus import consensus_error
from gossip.job import Job
from gossip.ledger import audit
from gossip.mass import TOTAL
from gossip.methods.collective import Collective
from gossip.methods.served import Served
from gossip.publication import Published
from trainers import data as datasets
from trainers import regularization
from trainers.data.sources import Batch
from trainers.evaluation import ConsensusModel, Score
from trainers.halt import Halt
from trainers.local import LocalTrainer, initial_model, own_batches, placed
from trainers.metrics import Metrics
from trainers.profiling import Profile
from trainers.run_directory import RunDirectory
from trainers.saving import Saving
from trainers.schema import Run, options

_log = logging.getLogger("gosgd")
_PATIENCE_S = 1.0
_PATIENCE_STEPS = 4
"""How long an interrupted worker waits for others, to take its mass or to come to the same step: the longer of both."""


def train(run: Run, directory: RunDirectory, job: Job, resume: bool) -> None:
    """Be one worker of a run, from building it to leaving it; a failure leaves nothing in shared memory.

    Args:
        run: what was asked for.
        directory: of the run.
        job: this worker's place.
        resume: whether to go on from the newest checkpoint.

    Raises:
        ValueError: something the user asked for cannot be built.
    """
    try:
        Worker(run, directory, job, resume).work()
    except BaseException:
        job.abort()
        raise


class Worker:
    """Trains, exchanges, measures, saves.

    Args:
        run: what was asked for.
        directory: of the run.
        job: this worker's place.
        resume: whether to go on from the newest checkpoint.
    """

    def __init__(self, run: Run, directory: RunDirectory, job: Job, resume: bool) -> None:
        job, device = placed(run, job)
        self.run, self.directory, self.job = run, directory, job
        self.data = datasets.build(run.data, device=device)
        model = initial_model(run, self.data, device)
        regularizers = regularization.build(run, model, self.data)
        travelling = regularization.travelling(run, model, regularizers)
        self.exchange = gossip.build(
            run.exchange.method, travelling, job=job, seed=run.seed, **options(run.exchange, "method")
        )
        if isinstance(self.exchange, Served):
            self.exchange.folder = directory.snapshots
        if (trace := getattr(run.exchange, "trace", "off")) != "off":
            self.exchange.record(directory.traces, updates=trace == "updates")
        seat, generation = self.exchange.me
        self._consensus = ConsensusModel(travelling)
        batches = own_batches(run, self.data, self.exchange.me, job.workers)
        profile = Profile(run.train.profile, directory.path / "profile" / f"worker-{seat}.pt.trace.json")
        self.local = LocalTrainer(run, self.exchange.wrap(model), model, batches, device, regularizers, profile)
        self.exchange.overlap(self.local.optimizer)
        self._halt = Halt(job) if self.exchange.collective and job.workers > 1 else None
        self._saving = Saving(run, directory, self.exchange, self.local)
        view = directory.tensorboard if run.run.tensorboard else None
        self._metrics = Metrics(directory.worker(seat) / "metrics.jsonl", view and view / f"worker-{seat}")
        self._evaluations = Metrics(directory.metrics, view and view / "consensus")
        self._interrupted = self._stopped = self._torn = self._diverged = False
        # A restarted gossip worker is given weights by its peers; its optimizer state starts empty.
        self._resume = resume if generation == 0 else not self.exchange.rejoins
        self._began = self._job_began = self._logged = self._longest = 0.0
        self._first = 0

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: finish the step under way, save, leave."""
        self._interrupted = True

    def work(self) -> bool:
        """Train to the end, or to the first signal; then leave the job and, if last, write the consensus model.

        Returns:
            Whether it came to the end.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self.interrupt)
        exchange = self.exchange
        exchange.start(self._saving.restore(self._resume), lambda: self._interrupted)
        self._first = exchange.steps
        self._logged = self._began = time.time()
        self._job_began = self.job.began()  # by whoever was first: this worker may be a restarted one
        try:
            while not self._finished():
                if self._stop():
                    self._stopped = True
                    break
                if self._halt is not None:
                    self._halt.begin(exchange.steps + 1)
                self.local.step(exchange.steps)
                before = time.perf_counter()
                with self.local.profile.range("exchange"):
                    exchange.step()
                self._longest = max(self._longest, time.perf_counter() - before)
                self._look(exchange.steps)
        except RuntimeError as error:
            # A collective operation fails in the workers that are still in it when the first one stops.
            if not (exchange.collective and self._interrupted):
                raise
            self._stopped = self._torn = True
            _log.warning("step %d was cut off by the others' end: %s", exchange.steps, error)
        self.local.profile.end()
        self._log_line(exchange.steps)
        if exchange.steps not in (self._first, self._saving.step) and not self._torn:
            self._saving.save()
        self._end()
        self.data.close()
        self._metrics.close()
        self._evaluations.close()
        return not self._stopped

    def _stop(self) -> bool:
        """Whether to end before the next step; workers of a collective method do so at the same step."""
        if self._halt is None:
            return self._interrupted
        if not self._interrupted and not self._halt.asked():
            return False
        self._interrupted = True
        try:
            return self._halt.stand(self.exchange.steps, self._patience())
        except TimeoutError as error:
            _log.warning("%s", error)
            return True

    def _patience(self) -> float:
        """Seconds that an interrupted worker waits for others."""
        each = (time.time() - self._began) / max(1, self.exchange.steps - self._first)
        return min(self.run.run.grace_s / 2, max(_PATIENCE_S, _PATIENCE_STEPS * each))

    def _finished(self) -> bool:
        if self.run.train.stop == "total":
            return self.exchange.total_ever() >= self.local.steps * self.job.workers
        return self.exchange.steps >= self.local.steps

    def _look(self, step: int) -> None:
        """What is due after this step; every worker at its own multiples, none waits for another."""
        options = self.run.run
        if step % options.log_every == 0:
            self._log_line(step)
        if options.eval_every and step % options.eval_every == 0:
            self.exchange.publish()
            if self.exchange.lowest():
                self._evaluate(step)
        if options.checkpoint_every and step % options.checkpoint_every == 0:
            self._saving.save()

    def _log_line(self, step: int) -> None:
        now = time.time()
        figures: dict[str, Any] = self.local.figures()
        if not figures["samples"]:
            return
        samples = figures.pop("samples")
        figures["samples_per_second"] = samples / max(now - self._logged, 1e-9)
        figures["learning_rate"] = self.local.optimizer.param_groups[0]["lr"]
        figures["exchange"] = self.exchange.stats() | {"longest_ms": 1e3 * self._longest}
        self._longest = 0.0
        if not self._diverged and not math.isfinite(figures["loss"]):
            self._diverged = True
            _log.warning(
                "the loss is %s at step %d: training has diverged; lower optimizer.lr or set train.clip",
                figures["loss"],
                step,
            )
        if self._saving.failures:
            figures["checkpoints_failed"] = self._saving.failures
        self._metrics.write(step, figures)
        self._logged = now

    def _evaluate(self, step: int) -> None:
        published = self.exchange.published()
        if isinstance(self.exchange, Collective):
            # Workers in step publish one after the other: an older snapshot would only blur the consensus.
            published = [one for one in published if one.step == step]
        if not published:
            return
        central = self.exchange.central()
        consensus = gossip.consensus_of(published) if central is None else central
        score = self._score(consensus)
        if score is None:
            return
        figures: dict[str, Any] = {
            "test_loss": score.loss,
            "test_accuracy": score.accuracy,
            "consensus_error": self._apart(published),
            "workers": len(published),
            "oldest_step": min(one.step for one in published),
            "newest_step": max(one.step for one in published),
        }
        if self.exchange.mass:
            figures["ledger"] = self._ledger()
        self._evaluations.write(step, figures)

    def _score(self, vector: torch.Tensor) -> Score | None:
        """Of the model with weights `vector` [D] on held-out data; None if a signal comes meanwhile."""
        try:
            return self._consensus.score(vector, self._unless_interrupted())
        except InterruptedError:
            return None

    def _unless_interrupted(self) -> Iterator[Batch]:
        for batch in self.data.test_batches():
            if self._interrupted:
                raise InterruptedError
            yield batch

    def _apart(self, published: Sequence[Published]) -> float:
        weights = self.exchange.flat.weights
        return consensus_error(torch.stack([one.vector[:weights] for one in published]))

    def _ledger(self) -> dict[str, Any]:
        if not self.exchange.transport.auditable():  # other hosts' workers tell what they had when they end
            return {"held_here": self.exchange.mass / TOTAL}
        try:
            ledger = audit(self.exchange.transport, self.job.directory.founders)
        except TimeoutError:
            return {}
        return {
            "held": sum(ledger.held.values()) / TOTAL,
            "in_flight": ledger.in_flight / TOTAL,
            "lost": ledger.lost / TOTAL,
            "total": ledger.total / TOTAL,
            "balanced": ledger.balanced,
        }

    def _end(self) -> None:
        exchange = self.exchange
        if self._stopped and isinstance(exchange, Collective):
            exchange.abandon()  # the others may be in another step: nothing can be averaged, all is in the checkpoints
            exchange.release(last=False)
            return
        exchange.publish()
        last = exchange.leave(self._patience() if self._interrupted else 60.0, stay=not self._interrupted)
        if last:
            try:
                self._write_final(time.time() - self._job_began)
            except (OSError, SafetensorError) as error:  # a full disk
                _log.error("the consensus model was not written; step %d is saved: %s", self._saving.step, error)
        exchange.release(last)

    def _write_final(self, elapsed: float) -> None:
        """The consensus model and its figures; everybody else has left and shown the weights it ended with."""
        exchange = self.exchange
        apart = self._apart(exchange.published())
        ledger = self._ledger() if exchange.mass else None
        score = None if self._interrupted else self._score(exchange.flat.vector)
        batch = self.local.batches.batch_size * self.run.train.grad_accum_steps
        write_atomically(self.directory.final / "model.safetensors", self._write_model)
        summary = {
            "name": self.run.name,
            "method": self.run.exchange.method,
            "workers": self.job.workers,
            "steps": exchange.steps,
            "steps_total": exchange.total_ever(),
            "accuracy": score.accuracy if score else None,
            "loss": score.loss if score else None,
            "samples_per_second": exchange.total_done() * batch / max(elapsed, 1e-9),
            "seconds": elapsed,
            "mass_total": ledger.get("total") if ledger else None,
            "mass_lost": ledger.get("lost") if ledger else None,
            "consensus_error": apart,
            "interrupted": self._interrupted,
            "diverged": score is not None and not math.isfinite(score.loss),
        }
        text = to_json(summary, indent=2) + "\n"
        write_atomically(self.directory.summary, lambda path: path.write_text(text))

    def _write_model(self, path: Any) -> None:
        """The consensus model under its ordinary parameter names, integer buffers included."""
        self._consensus.load(self.exchange.flat.vector)
        save_file({name: t.contiguous().clone() for name, t in self._consensus.model.state_dict().items()}, str(path))
