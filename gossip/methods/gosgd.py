"""GoSGD: each worker now and then pushes its weights with half of its mass to a random peer (thesis alg. 3 and 4).

One exchange is K = I + a (e_r e_s^T - e_r e_r^T), a = lambda_s / (lambda_s + 2 lambda_r), with the masses before the
push (the thesis' (2.11) does not conserve sum lambda w).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.optim import Optimizer

from gossip import layout
from gossip.duties import Duties
from gossip.hosts import enter
from gossip.layout import Member, State
from gossip.leaving import JobOverError, depart, finish, over
from gossip.mail import Letter, Peer
from gossip.mass import TOTAL, halve
from gossip.messages import Messages
from gossip.methods.base import METHODS, Exchange, MethodConfig, log, wait_until
from gossip.outbox import Outbox
from gossip.peers import ADAPTIVE, Chooser, check_peers, chooser
from gossip.sending import Allowance, AtRandom, WhereItHelps
from gossip.starting import agree_on_weights, wait_for_founders
from gossip.trace import message
from gossip.transports.device_memory import DeviceMemory
from gossip.transports.ipc import ipc_of
from gossip.transports.nixl import rdma
from gossip.transports.shared_memory import SharedMemory
from gossip.works import Event

WIRES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
_INSPECTION_S = 0.1
_STAY_PERIOD_S = 0.002


class GoSGDConfig(MethodConfig):
    """Options of `gosgd`.

    Attributes:
        rho: probability of a push after each local step.
        peers: whom to push to: `uniform`, `ring` (the next one), `exponential` (1, 2, 4, ... places on, in turn),
            `hierarchical` (mostly one of this host), a function of your own as `package.module:name`, or `adaptive`,
            which also chooses when, so that messages lower the consensus error most, and keeps rho on average.
        slots: how many messages of a worker may be unread at once; each takes a weight vector of shared memory.
        patience: a peer that leaves a message unread for more than this many of our steps is not chosen.
        start_timeout_s: how long a worker waits at the start for the others' processes to be up.
        wire_dtype: what weights are rounded to in messages, `float32` for not at all; a joining worker's first is never
            rounded, and merging is done in the model's own precision. What is above 65,504 arrives as that in
            `float16`.
        max_bandwidth: bytes a second that a worker may send; beyond, it skips messages and keeps their mass. Workers
            that join or leave are not held up by it.
        leave_host: with `hierarchical` peers, the probability that a message goes to another host.
        memory: where messages of workers on GPUs lie: `auto`, in the sender's GPU where the receiver can read them
            there, from other hosts over RDMA; `device`, the same over whatever lies between the hosts; or `host`.
    """

    method: Literal["gosgd"] = "gosgd"
    rho: float = Field(default=0.02, ge=0, le=1)
    peers: Annotated[str | Chooser, AfterValidator(check_peers)] = "uniform"
    slots: int = Field(default=4, ge=1, le=64)
    patience: int = Field(default=50, ge=1)
    start_timeout_s: float = Field(default=120.0, gt=0)
    wire_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    max_bandwidth: float | None = Field(default=None, gt=0)
    leave_host: float = Field(default=0.1, ge=0, le=1)
    memory: Literal["auto", "device", "host"] = "auto"

    def check(self, workers: int) -> None:
        """Find a chooser of the user's own; refuse to trace what a replay could not follow."""
        if self.trace != "off" and self.wire_dtype != "float32":
            raise ValueError(
                f"got wire_dtype={self.wire_dtype} with trace={self.trace}, expected float32: a replay follows vectors"
                " that are not rounded on their way"
            )
        if self.peers != ADAPTIVE:
            chooser(self.peers)


@METHODS.register(GoSGDConfig)
class GoSGD(Exchange):
    """Asynchronous gossip through sum-weight queues; no operation of `step()` ever waits for another worker."""

    Options = GoSGDConfig
    options: GoSGDConfig
    rejoins = True

    def _take_seat(self) -> SharedMemory:
        options, job, flat = self.options, self.job, self.flat
        dimension, dtype = flat.dimension, flat.vector.dtype
        wire = WIRES[options.wire_dtype]
        place = (job.directory, job.rank, dimension, dtype, options.slots, flat.fingerprint)
        ipc = ipc_of(flat.vector) if options.memory != "host" and flat.vector.device.type == "cuda" else None
        if job.hosts is None:
            return SharedMemory(*place, wire=wire) if ipc is None else DeviceMemory(*place, wire=wire, ipc=ipc)
        direct = ipc is not None and (options.memory == "device" or rdma())
        where = flat.vector.device
        return enter(place[0], job.hosts, *place[1:], wire=wire, device=where, ipc=ipc, direct=direct)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.outbox = Outbox(self.transport, self.genesis, self.options.patience)
        self._messages = Messages(self.flat, self.seed)
        self._generator = random.Random(repr((self.seed, *self.me)))
        self._sender: AtRandom | WhereItHelps
        self._bytes = self.flat.dimension * (WIRES[self.options.wire_dtype] or self.flat.vector.dtype).itemsize
        self._allowance = Allowance(self.options.max_bandwidth, self._bytes)
        if self.options.peers == ADAPTIVE:
            self._sender = WhereItHelps(self.outbox, self.options.rho, self._generator, self._allowance)
        else:
            choose = chooser(self.options.peers, self.options.leave_host, self._near)
            self._sender = AtRandom(self.outbox, self.options.rho, choose, self._generator, self._allowance)
        self._duties = Duties(self.outbox, self.job.directory, self._send, self._merge)
        self._interrupted: Callable[[], bool] = lambda: False

    def _near(self, seat: int) -> bool:
        """Whether the worker on a seat is on this host."""
        return self.transport.together(self.me, Member(seat, self.transport.generations()[seat] - 1))

    @property
    def rho(self) -> float:
        """Messages per local step; may be changed while training, within 0 to 1."""
        return self._sender.rho

    @rho.setter
    def rho(self, rho: float) -> None:
        self.options = self.Options.of(**{**self.options.model_dump(), "rho": rho})
        self._sender.rho = rho

    @property
    def mass(self) -> int:
        """Shares this worker holds out of `gossip.mass.TOTAL`."""
        return self.outbox.mass

    def start(self, steps: int = 0, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Take part in the job.

        A founder takes the weights all founders agree on and waits until the others are up. A worker that comes later
        has nothing to bring: it waits for the first message, which sets its weights and its step count.

        Args:
            steps: local steps the weights have behind them already.
            interrupted: asked while waiting; the wait ends when it says True.
        """
        self._resume(steps)
        self._interrupted = interrupted
        if self.genesis and not self.transport.claimant("started"):
            self.transport.appear()
            deadline = time.monotonic() + self.options.start_timeout_s
            agree_on_weights(self.transport, self.flat.vector, steps > 0, deadline, interrupted)
            self._placed()
            self._words[layout.STATE] = State.ACTIVE
            wait_for_founders(self.transport, deadline, interrupted)
            self.transport.claim("started")
            self._duties.attend()
            return False
        self._placed()
        self._words[layout.STATE] = State.JOINING
        self.transport.appear()
        return self._join(interrupted)

    def _join(self, interrupted: Callable[[], bool]) -> bool:
        began = complained = looked = time.monotonic()
        while self._words[layout.STATE] == State.JOINING and not interrupted():
            self._duties.attend()
            if self.outbox.mass and not any(peer.state() != State.JOINING for peer in self.outbox.peers):
                self._take_over()  # everybody else waits to be fed, and this worker holds mass: it goes first
                break
            now = time.monotonic()
            if now - looked > _INSPECTION_S:
                looked = now
                if over(self.transport):
                    raise JobOverError(f"worker {self.me.seat} came when all others had left")
                if self._duties.founded() and self._duties.inherits():
                    self._take_over()
                    break
            if now - complained > 10:
                complained = now
                log.warning("worker %d: has waited %.0f s for a first message", self.me.seat, now - began)
            time.sleep(0.001)
        fed = self._words[layout.STATE] == State.ACTIVE
        self._words[layout.STATE] = State.ACTIVE
        return fed

    def _take_over(self) -> None:
        """Go on for a job of which nobody with weights is left, from the newest that any of them had published."""
        known = [self.publisher.read(member) for member in self.transport.everybody()]
        newest = max((one for one in known if one is not None), key=lambda one: one.step, default=None)
        if newest is not None:
            self.flat.vector.copy_(newest.vector)
            self.steps = newest.step
            self._placed()

    def overlap(self, optimizer: Optimizer) -> None:
        """Let messages be copied while the next gradient is computed; only `optimizer` may then change the weights.

        Without this, the next step on an accelerator begins when a message's copy is over.
        """
        self._messages.overlap(optimizer)

    def step(self) -> None:
        """Push with probability rho, then merge what has arrived."""
        self.count_step()
        self._sender.after_step(self.steps, self._write)
        self._duties.attend()
        self._sender.tell()

    def _send(self, peer: Peer) -> bool:
        return self.outbox.push(peer, halve(self.outbox.mass)[1], self.steps, self._write)

    def _write(self, slot: Tensor, letter: Letter) -> Event | None:
        event = self._messages.write(slot)
        self._moved("push", message=message(letter))
        return event

    def _merge(self, slot: Tensor, weight: float, step: int, letter: Letter) -> Event | None:
        event = self._messages.merge(slot, weight, self.steps)
        self._sender.merged(weight, letter.sender)
        self._moved("merge", message=message(letter), weight=weight)
        if self._words[layout.STATE] == State.JOINING:
            self.steps = step
        self._messages.aged(self.steps - step)
        return event

    def stats(self) -> dict[str, float | None]:
        """Exchange figures since the start; staleness (steps between a message and its merge) since the last call."""
        counters = self.outbox.counters
        mean, most = self._messages.staleness()
        return {
            "mass": self.outbox.mass / TOTAL,
            "sent": counters.sent,
            "received": counters.received,
            "returned": counters.returned,
            "skipped": counters.skipped_unread + counters.skipped_no_slot,
            "skipped_bandwidth": counters.skipped_bandwidth,
            "merged_bytes": counters.received * self._bytes,
            "peers": len(self.outbox.peers),
            "staleness_mean": mean,
            "staleness_max": most,
            "consensus_estimate": self._messages.estimate.error(len(self.outbox.peers) + 1),
            "mass_reissued": self._duties.taken / TOTAL,
        }

    def state_dict(self) -> dict[str, Any]:
        """The generator that decides when and whom to push to."""
        return {"generator": self._generator.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the generator."""
        self._expect(state, "generator")
        version, internal, gauss = state["generator"]
        self._generator.setstate((version, tuple(internal), gauss))

    def leave(self, timeout_s: float = 60.0, stay: bool = True) -> bool:
        """As of every method; whoever has to go before the start has no weights to hand over, and waits for nobody."""
        if stay or self.transport.seats == 1 or self._words[layout.STATE] != State.STARTING:
            return super().leave(timeout_s, stay)
        self._placed()
        self._words[layout.FINISHED] = layout.TAKEN_OUT
        self._words[layout.STATE] = State.GONE
        self.transport.appear()
        return False

    def _stay(self, timeout_s: float) -> None:
        """Answer every message with one, so that mass and averaging stay in reach of those that still train.

        Handing everything over at once would leave the last worker to train on alone, and w~ would be its weights
        rather than an average. Ends early when none of the others gets on for `timeout_s`.
        """
        outbox, answered = self.outbox, self.outbox.counters.received
        progress, deadline = -1, 0.0
        while not self._interrupted():
            self._duties.attend()
            training = [
                peer for peer in outbox.present() if not peer.words[layout.FINISHED] and peer.state() < State.LEAVING
            ]
            if not training:
                break
            done = sum(peer.words[layout.DONE] for peer in training)
            if done != progress:
                progress, deadline = done, time.monotonic() + timeout_s
            elif time.monotonic() > deadline:
                log.warning("worker %d: leaves %d behind that have stopped", self.me.seat, len(training))
                break
            if outbox.counters.received != answered:
                answered = outbox.counters.received
                self._answer(training)
            time.sleep(_STAY_PERIOD_S)
        if self._publisher is not None:
            self.publish()

    def _answer(self, training: Sequence[Peer]) -> None:
        ready = [peer for peer in self.outbox.choosable(self.steps) if peer in training]
        if not ready or not self._allowance.covers():
            return
        if self._send(self._generator.choice(ready)):
            self._allowance.spend()

    def _leave(self, timeout_s: float) -> bool:
        outcome: bool | None = None

        def left() -> bool:
            nonlocal outcome
            outcome = depart(self.outbox, self.steps, self._write, self._merge)
            return outcome is not None

        if not wait_until(left, timeout_s):
            log.warning("worker %d: left after %.0f s with its mail unread", self.me.seat, timeout_s)
        self.outbox.finish()
        if outcome:
            finish(self.transport)
        return bool(outcome)
