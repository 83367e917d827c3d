"""Published weights: whole, labelled with their step, and readable after their owner has gone."""

import time

import pytest
import torch
from support.publishing import FastWriter
from support.remote import in_process_of_its_own, reaped

from gossip.directory import JobDirectory
from gossip.layout import Member
from gossip.publication import Published, Publisher, consensus_of
from gossip.transports.shared_memory import SharedMemory

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def directory():
    job = JobDirectory.create(2, 2)
    yield job
    job.remove()


@pytest.fixture
def reader(directory):
    def make(dimension: int) -> Publisher:
        members.append(SharedMemory(directory, 1, dimension, torch.float32, 0))
        return Publisher(members[-1])

    members: list[SharedMemory] = []
    yield make
    for member in members:
        member.close()


@pytest.mark.parametrize("dimension", [1000, 300_000])
def test_a_reader_never_sees_half_of_a_publication(directory, reader, dimension):
    publisher = reader(dimension)
    with reaped([in_process_of_its_own(FastWriter, str(directory.path), 0, dimension)]) as (writer,):
        writer.answer()
        seen, written, deadline = [], 0, time.monotonic() + 45
        while written <= 100 or len({step for step, *_ in seen}) <= 10:
            assert time.monotonic() < deadline
            writer.begin("write", 1.5)
            while not writer.answered():
                found = publisher.read(Member(0, 0), attempts=100)
                if found is not None:
                    seen.append((found.step, float(found.vector.min()), float(found.vector.max()), found.mass))
            written = writer.answer()
    assert [one for one in seen if not one[1] == one[2] == one[0]] == []
    assert all(mass == 3 * (step - 1) for step, _, _, mass in seen)
    assert [step for step, *_ in seen] == sorted(step for step, *_ in seen)


def test_what_was_published_outlives_its_owner(directory, reader):
    publisher = reader(10)
    with reaped([in_process_of_its_own(FastWriter, str(directory.path), 0, 10)]) as (writer,):
        writer.answer()
        assert publisher.read(Member(0, 0)) is None
        writer.ask("write_one", 7)
    found = publisher.read(Member(0, 0))
    assert found is not None
    assert (found.step, found.mass) == (1, 7)
    assert torch.equal(found.vector, torch.ones(10))


def test_a_snapshot_is_no_view_of_the_weights(directory, reader):
    publisher = reader(4)
    weights = torch.ones(4)
    publisher.publish(weights, 5)
    weights.zero_()
    found = publisher.read(Member(1, 0))
    assert found is not None
    assert torch.equal(found.vector, torch.ones(4))


def test_a_member_that_never_published_has_nothing_to_show(reader):
    assert reader(4).read(Member(0, 0)) is None


def published(value: float, mass: int) -> Published:
    return Published(Member(0, 0), torch.full((3,), float(value)), 1, mass)


def test_the_consensus_is_weighted_by_mass_and_plain_without():
    assert consensus_of([published(1, 3 << 60), published(5, 1 << 60)]).tolist() == [2, 2, 2]
    assert consensus_of([published(1, 0), published(5, 0)]).tolist() == [3, 3, 3]
    assert consensus_of([published(1, 5), published(9, 0)]).tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_equal_weights_of_16_bits_are_their_own_consensus(dtype):
    weights = torch.linspace(-3, 3, 1000).to(dtype)
    found = consensus_of([Published(Member(seat, 0), weights, 1, 0) for seat in range(7)])
    assert found.dtype == dtype
    assert torch.equal(found, weights)
