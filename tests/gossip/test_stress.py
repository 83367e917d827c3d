"""Real processes that push at full speed, are killed at random instants, and stand still: nothing torn or lost."""

import os
import random
import signal
import time

import pytest
from support.members import Processes
from support.remote import answers, ask_all, process_state, until

from gossip import layout
from gossip.layout import Member, State
from gossip.mass import TOTAL

pytestmark = pytest.mark.timeout(110)


@pytest.fixture
def processes():
    """Makes a job of real processes, and ends it with everything they forked."""
    jobs, children = [], []

    def make(founders: int, **options) -> Processes:
        jobs.append(Processes(founders, **options))
        jobs[-1].children = children
        return jobs[-1]

    yield make
    for job in jobs:
        job.end()
    for child in children:
        os.kill(child, signal.SIGKILL)
        until(lambda child=child: process_state(child) in ("", "Z"))


def received(job: Processes, seat: int) -> int:
    """Messages that a founder has read by now."""
    words = job.books.open(Member(seat, 0))
    receipts = [words[layout.receipt(job.seats, sender) + layout.ACKNOWLEDGED] for sender in range(job.seats)]
    return sum(map(layout.sequence_of, receipts))


def frozen_ledger(job: Processes):
    """The ledger at an instant at which every member is stopped, wherever it is in what it does."""
    members = list(job.members.values())
    for member in members:
        member.signal(signal.SIGSTOP)
    ledger = job.ledger()
    for member in members:
        member.signal(signal.SIGCONT)
    return ledger


@pytest.mark.parametrize(("dimension", "fewest"), [(4096, 200), (1_000_000, 10)])
def test_no_message_is_torn_and_no_share_lost_at_full_speed(processes, dimension, fewest, tmp_path):
    job = processes(4, dimension=dimension)
    members = job.found()
    for seed, member in enumerate(members):
        member.begin("run", seed, 90.0, None, 0.0, str(tmp_path / "enough"))
    generator = random.Random(dimension)
    ledgers, frozen = [], []

    def seen() -> bool:
        looked = len(ledgers) >= 100 and any(ledger.in_flight for ledger in frozen)
        return looked and all(received(job, seat) >= fewest for seat in range(4))

    began = time.monotonic()
    while time.monotonic() - began < 2.3 or (not seen() and time.monotonic() - began < 80):
        for _ in range(20):
            ledgers.append(job.ledger(attempts=100_000))
            time.sleep(generator.random() * 0.004)
        frozen.append(frozen_ledger(job))
    assert seen()
    (tmp_path / "enough").touch()
    answers(members)
    assert [ledger for ledger in [*ledgers, *frozen] if not ledger.balanced] == []
    assert ask_all(members, "torn_messages") == [0] * 4
    outcomes = ask_all(members, "leave")
    assert sorted(outcomes) == [False, False, False, True]
    assert members[outcomes.index(True)].ask("mass") == TOTAL


def test_members_killed_at_random_instants_with_forked_children_alive(processes, tmp_path):
    job = processes(4, dimension=20_000)
    generator = random.Random(11)

    def live(seat: int) -> None:
        job.children.append(job.members[seat].ask("fork_a_child"))
        job.members[seat].begin("run", generator.random(), 90.0, None, 0.0, str(tmp_path / "enough"))

    job.found()
    for seat in range(4):
        live(seat)
    for _ in range(10):
        time.sleep(generator.random() * 0.2)
        seat = generator.randrange(4)
        victim = Member(seat, job.books.generations()[seat] - 1)
        job.kill(seat)
        assert job.books.dead(victim), "the death of a process is proven as soon as it has been reaped"
        assert job.ledger(attempts=100_000).balanced
        job.join(seat)
        live(seat)
        assert job.ledger(attempts=100_000).balanced
    members = list(job.members.values())
    until(lambda: all(job.books.open(member)[layout.STATE] == State.ACTIVE for member in job.books.members()))
    (tmp_path / "enough").touch()
    assert not any(process_state(child) in ("", "Z") for child in job.children)
    answers(members)
    assert ask_all(members, "torn_messages") == [0] * 4
    outcomes = ask_all(members, "leave")
    assert sorted(outcomes) == [False, False, False, True]
    ledger = job.ledger()
    held = members[outcomes.index(True)].ask("mass")
    assert (sum(ledger.held.values()), ledger.in_flight) == (held, 0)
    assert held + ledger.lost == TOTAL
    assert 0 < held < TOTAL
    there = {member for member in job.books.everybody() if job.slots_of(member)}
    assert there <= {members[outcomes.index(True)].ask("me")}, "slots of everybody who is gone were unlinked"


def test_a_stopped_peer_holds_nobody_up_and_resumes(processes, tmp_path):
    """With two slots only, so that one more than the stopped peer's pinned slot is all there is."""
    job = processes(3, dimension=20_000, slots=2)
    first, second, stopped = job.found(patience=5)
    others = [first, second]
    for seed, member in enumerate([*others, stopped]):
        member.begin("run", seed, 90.0, None, 0.0, str(tmp_path / "enough"))
    words = [job.books.open(Member(seat, 0)) for seat in range(3)]

    def sent(to: int | None) -> list[int]:
        """Messages of each of the others to a seat, or to each other."""
        return [layout.sequence_of(words[seat][layout.post(1 - seat if to is None else to)]) for seat in (0, 1)]

    def more(before: list[int], now: list[int], by: int) -> bool:
        return all(later - earlier > by for earlier, later in zip(before, now, strict=True))

    until(lambda: more([0, 0], sent(2), 5))
    stopped.signal(signal.SIGSTOP)
    at = sent(None)
    until(lambda: more(at, sent(None), 50))  # the rest go on
    to_the_stopped = sent(2)
    time.sleep(0.2)
    assert to_the_stopped == sent(2)
    assert not job.books.dead(Member(2, 0)), "standing still is not being dead"
    assert job.ledger(attempts=100_000).balanced
    read = layout.receipt(3, 0) + layout.ACKNOWLEDGED
    before = words[2][read]
    stopped.signal(signal.SIGCONT)
    until(lambda: words[2][read] != before)
    until(lambda: more(to_the_stopped, sent(2), 0))  # mail goes to it again
    (tmp_path / "enough").touch()
    answers([*others, stopped])
    assert [one["skipped_no_slot"] for one in ask_all(others, "counters")] == [0, 0]
    assert ask_all(others, "slots") == [2, 2]
    assert ask_all([*others, stopped], "torn_messages") == [0] * 3
    assert words[2][layout.STATE] == State.ACTIVE
    assert sorted(ask_all([*others, stopped], "leave")) == [False, False, True]
