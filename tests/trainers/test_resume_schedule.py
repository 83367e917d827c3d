"""Gossip by a recorded schedule in one process: a job that goes on from its checkpoints equals one that ran through.

A resume shares the mass out anew and knows no mail, so it can be exact only where the mass is equal and all mail read:
the schedule is of rounds in which workers swap messages in pairs, and the job is stopped between two rounds.
"""

import random

import pytest
import torch

from configs import load
from gossip import layout
from gossip.flat import Flat
from gossip.layout import Member, State
from gossip.mass import halve, share_out
from gossip.outbox import Outbox
from gossip.transports.in_process import InProcess, Meeting
from trainers import data as datasets
from trainers.checkpoint_file import About
from trainers.checkpoints import Checkpoints
from trainers.local import LocalTrainer, initial_model, own_batches
from trainers.schema import Run

WORKERS = 4
CONFIG = """
name: small
seed: 3
data: {name: digits, batch_size: 32}
model: {name: mlp, hidden: [16], dropout: 0.2}
optimizer: {name: adam, lr: 0.01}
exchange: {method: gosgd, rho: 0.5}
train: {steps: 40}
"""


class Trainee:
    """One worker of the job: its training, its outbox, its generator."""

    def __init__(self, run: Run, data: datasets.base.Data, meeting: Meeting, rank: int, folder) -> None:
        device = torch.device("cpu")
        model = initial_model(run, data, device)
        self.flat, self.rank, self.step = Flat(model), rank, 0
        batches = own_batches(run, data, Member(rank, 0), WORKERS)
        self.local = LocalTrainer(run, model, model, batches, device)
        self.generator = torch.get_rng_state()
        self.transport = InProcess(meeting, rank, self.flat.dimension, torch.float32, 4)
        mass = share_out(WORKERS)[rank]
        self.transport.words[layout.GENESIS] = mass
        self.transport.words[layout.STATE] = State.ACTIVE
        self.outbox = Outbox(self.transport, mass, 50)
        self.checkpoints = Checkpoints(folder, rank)
        self.transport.appear()

    def train(self) -> None:
        torch.set_rng_state(self.generator)
        self.local.step(self.step)
        self.generator = torch.get_rng_state()
        self.step += 1

    def push(self, seat: int) -> None:
        peer = next(peer for peer in self.outbox.peers if peer.member.seat == seat)
        assert self.outbox.push(peer, halve(self.outbox.mass)[1], self.step, self.write)

    def write(self, slot, letter) -> None:
        slot.copy_(self.flat.vector)

    def merge(self, slot, weight, step, letter) -> None:
        self.flat.vector.lerp_(slot, weight)

    def save(self) -> None:
        torch.set_rng_state(self.generator)
        about = About(
            self.step, self.rank, WORKERS, 0, 0, "gosgd", "adam", self.flat.fingerprint, self.flat.dimension, {}
        )
        assert self.checkpoints.save(about, {"vector": self.flat.vector, "local": self.local.state_dict()})

    def load(self) -> None:
        found = self.checkpoints.newest()
        assert found is not None
        about, state = found
        assert about.worker == self.rank
        self.step = about.step
        self.flat.vector.copy_(state["vector"])
        self.local.load_state_dict(state["local"])
        self.generator = torch.get_rng_state()


def job(run: Run, data, folder, schedule, resume: bool = False) -> list[torch.Tensor]:
    """The workers' weights after the rounds of a schedule, each of which is a list of pairs; they save at the end."""
    meeting = Meeting(WORKERS)
    trainees = [Trainee(run, data, meeting, rank, folder) for rank in range(WORKERS)]
    for one in trainees:
        one.outbox.refresh(one.merge)
        if resume:
            one.load()
    for pairs in schedule:
        for one in trainees:
            one.train()
        for a, b in pairs:
            trainees[a].push(b)
            trainees[b].push(a)
        for one in trainees:
            one.outbox.poll(one.merge)
    assert [one.outbox.mass for one in trainees] == share_out(WORKERS)
    for one in trainees:
        one.save()
    return [one.flat.vector for one in trainees]


@pytest.mark.timeout(30)
def test_a_job_by_a_recorded_schedule_goes_on_to_the_bit(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG)
    run = load(tmp_path / "small.yaml", [], Run).config
    data = datasets.build(run.data)
    generator = random.Random(0)
    schedule = []
    for _ in range(20):
        seats = generator.sample(range(WORKERS), WORKERS)
        schedule.append([(seats[0], seats[1]), (seats[2], seats[3])][: generator.randrange(3)])
    whole = job(run, data, tmp_path / "whole", schedule)
    job(run, data, tmp_path / "parts", schedule[:9])
    parts = job(run, data, tmp_path / "parts", schedule[9:], resume=True)
    assert all(map(torch.equal, whole, parts))
    assert not torch.equal(whole[0], whole[1])
