"""What every transport must keep: one row a transport, members as threads or as real processes."""

import random
import signal
import time

import pytest
from support.members import Cluster, Processes, Threads
from support.on_devices import OnDevices, OnGpu, gpu
from support.remote import answers, ask_all, until

from gossip.layout import Member, State
from gossip.mass import TOTAL, share_out

pytestmark = pytest.mark.timeout(100)


ON_GPU = pytest.param(OnGpu, marks=pytest.mark.skipif(not gpu(), reason="no GPU here"))


@pytest.fixture(params=[Threads, Processes, OnDevices, ON_GPU], ids=lambda kind: kind.kind)
def cluster(request):
    """Makes a job whose members are all gone at the end."""
    made: list[Cluster] = []

    def make(founders: int, **options) -> Cluster:
        made.append(request.param(founders, **options))
        return made[-1]

    yield make
    for one in made:
        one.end()


def everybody_reads(members):
    """Let members read until nothing is on its way: who is gone is buried, and what comes back from it is merged."""
    for _ in range(3):
        for member in members:
            member.ask("meet")
            member.ask("poll")
            member.ask("bury")


def test_nothing_is_lost_below_capacity(cluster):
    here, there = cluster(2).found()
    for _ in range(50):
        assert here.ask("push", 1)
        assert there.ask("poll") == 1
        assert there.ask("push", 0)
        assert here.ask("poll") == 1
    assert there.ask("read_messages") == [(0, step) for step in range(1, 51)]
    assert here.ask("read_messages") == [(1, step) for step in range(1, 51)]
    for member in (here, there):
        assert member.ask("torn_messages") == 0
        counters = member.ask("counters")
        assert (counters["sent"], counters["received"], counters["skipped_unread"]) == (50, 50, 0)


def test_one_unread_message_per_pair_and_a_skipped_push_keeps_its_mass(cluster):
    here, there = cluster(2).found()
    assert here.ask("push", 1)
    kept = here.ask("mass")
    assert not here.ask("push", 1)
    assert here.ask("mass") == kept
    assert here.ask("counters")["skipped_unread"] == 1
    assert here.ask("unread") == 1
    there.ask("poll")
    assert here.ask("push", 1)
    assert there.ask("push", 0), "the other direction is a pair of its own"


def test_a_push_without_shares_sends_nothing(cluster):
    here, there = cluster(2).found()
    assert not here.ask("push", 1, 0)
    assert there.ask("poll") == 0


def test_push_and_poll_do_not_wait_for_a_peer_that_does_not_read(cluster):
    job = cluster(2)
    here, there = job.found()
    if job.kind != "in_process":
        there.signal(signal.SIGSTOP)
    sent, longest = here.ask("push_many", 1, 2000)
    assert sent == 1
    assert longest < 5, "a call that waits for the peer would not return at all"
    if job.kind != "in_process":
        there.signal(signal.SIGCONT)
    assert there.ask("poll") == 1


def test_a_silent_peer_leaves_the_choice_until_it_reads_again(cluster):
    here, there, _ = cluster(3).found(patience=10)
    here.ask("push_many", 1, 10)
    assert here.ask("choosable") == [1, 2]
    here.ask("push_many", 1, 2)
    assert here.ask("choosable") == [2]
    there.ask("poll")
    here.ask("poll")
    assert here.ask("choosable") == [1, 2]


def test_the_pool_grows_when_a_silent_peer_pins_its_only_slot(cluster):
    here, _, other = cluster(3, slots=1).found()
    assert here.ask("push", 1)
    assert not here.ask("push", 2), "the only slot is pinned"
    assert here.ask("counters")["skipped_no_slot"] == 1
    until(lambda: here.ask("slots") == 2)
    assert here.ask("push", 2)
    assert other.ask("poll") == 1
    assert here.ask("push", 2), "the new slot is used again once it was read"
    assert other.ask("torn_messages") == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_ledger_is_an_equality_after_every_operation_and_every_death(cluster, seed):
    job = cluster(3, seats=3, slots=2)
    job.found()
    generator = random.Random(seed)
    points = 0
    for _ in range(120):
        seat = generator.randrange(3)
        member = job.members[seat]
        event = generator.random()
        if event < 0.03:
            job.kill(seat)
            ledger = job.ledger()
            assert ledger.balanced, ledger
            member = job.join(seat)
        elif event < 0.45:
            member.ask("meet")
            others = {other.seat for other in member.ask("meet")}
            if others and member.ask("state") == State.ACTIVE:
                member.ask("push", generator.choice(sorted(others)))
        elif event < 0.85:
            member.ask("poll")
        else:
            member.ask("bury")
        ledger = job.ledger()
        assert ledger.balanced, ledger
        held = {seat: one for (seat, _), one in ledger.held.items()}
        assert held[seat] == member.ask("mass"), "the words say what the member believes"
        points += 1
    assert points == 120
    assert sum(ask_all(list(job.members.values()), "torn_messages")) == 0


def test_the_ledger_is_an_equality_while_members_push_at_each_other(cluster):
    job = cluster(3, dimension=256)
    members = job.found()
    for seed, member in enumerate(members):
        member.begin("run", seed, 1.0, None, 0.0002)
    ledgers = []
    while not all(member.answered() for member in members):
        ledgers.append(job.ledger(attempts=100_000))
        time.sleep(0.0005)
    assert min(answers(members)) > 20
    assert [ledger for ledger in ledgers if not ledger.balanced] == []
    assert len(ledgers) > 10
    assert sum(ask_all(members, "torn_messages")) == 0


def test_all_leave_at_once_and_one_holds_everything(cluster):
    job = cluster(4)
    members = job.found()
    for seed, member in enumerate(members):
        member.begin("run", seed, 5.0, 200)
    answers(members)
    outcomes = ask_all(members, "leave")
    assert sorted(outcomes) == [False, False, False, True]
    assert members[outcomes.index(True)].ask("mass") == TOTAL
    assert job.ledger().in_flight == 0


def test_who_leaves_drains_its_inbox_and_hands_its_mass_to_who_stays(cluster):
    job = cluster(3)
    here, there, other = job.found()
    assert other.ask("push", 0)
    assert here.ask("leave_once") is None
    assert here.ask("read_messages") == [(2, 1)]
    assert there.ask("choosable") == [2]
    there.ask("poll")
    assert here.ask("leave_once") is False
    assert here.ask("mass") == 0
    everybody_reads([there, other])
    ledger = job.ledger()
    assert ledger.balanced
    assert sorted(ledger.held) == [Member(1, 0), Member(2, 0)]
    assert sum(ledger.held.values()) == TOTAL


def test_unread_mail_returns_to_its_sender_when_the_receiver_dies(cluster):
    job = cluster(2)
    here, _ = job.found()
    before = here.ask("mass")
    assert here.ask("push", 1)
    assert here.ask("bury") == []
    job.kill(1)
    assert here.ask("bury") == [Member(1, 0)]
    assert here.ask("mass") == before
    assert here.ask("counters")["returned"] == 1
    assert here.ask("read_messages") == [(0, 1)], "returned mail is merged like any other"
    ledger = job.ledger()
    assert (ledger.held, ledger.in_flight, ledger.lost) == ({Member(0, 0): before}, 0, share_out(2)[1])


def test_mail_of_a_dead_sender_is_read_and_then_its_slots_are_discarded(cluster):
    job = cluster(3)
    here, there, other = job.found()
    assert here.ask("push", 1)
    job.kill(0)
    assert other.ask("bury") == [Member(0, 0)]
    assert job.slots_of(Member(0, 0)) == 4, "there is unread mail in one of them"
    assert there.ask("bury") == [Member(0, 0)]
    assert there.ask("read_messages") == [(0, 1)]
    assert job.slots_of(Member(0, 0)) == 0
    assert other.ask("bury") == [], "somebody else having discarded them is no error"
    assert job.ledger().balanced


def test_a_member_that_left_keeps_no_slots(cluster):
    job = cluster(2)
    here, there = job.found()
    assert there.ask("leave_once") is None
    here.ask("poll")
    assert there.ask("leave_once") is False
    here.ask("bury")
    assert job.slots_of(Member(1, 0)) == 0
    assert here.ask("mass") == TOTAL


def test_a_restarted_member_is_new_and_gets_weights_from_the_first_message(cluster):
    job = cluster(2)
    here, _ = job.found()
    job.kill(1)
    here.ask("bury")
    again = job.join(1)
    assert again.ask("me") == Member(1, 1)
    assert again.ask("mass") == 0
    again.ask("meet")
    assert here.ask("meet") == [Member(1, 1)]
    assert here.ask("choosable") == [], "it has nothing to average with yet"
    assert here.ask("push", 1)
    assert again.ask("poll") == 1
    assert again.ask("state") == State.ACTIVE
    assert again.ask("mass") == share_out(2)[0] // 2


def test_mail_to_a_predecessor_is_not_read_by_its_successor(cluster):
    job = cluster(2)
    here, _ = job.found()
    assert here.ask("push", 1)
    job.kill(1)
    again = job.join(1)
    again.ask("meet")
    assert again.ask("poll") == 0
    here.ask("meet")
    assert here.ask("counters")["returned"] == 1
    assert here.ask("push", 1)
    assert again.ask("poll") == 1


def test_mail_of_a_member_that_lived_and_died_unnoticed_is_read(cluster):
    """A member may stand still so long that whole lives on another seat go by."""
    job = cluster(3)
    here, _, other = job.found()
    job.kill(1)
    short = job.join(1)
    other.ask("meet")
    assert other.ask("push", 1)
    short.ask("meet")
    assert short.ask("poll") == 1
    assert short.ask("push", 0)
    job.kill(1)
    last = job.join(1)
    everybody_reads([here, other, last])
    # A handle of device memory ends with its owner: then the mass stays, as everywhere, and the weights are lost.
    assert here.ask("read_messages") == ([(1, 1)] if job.kind in ("in_process", "shared_memory") else [])
    ledger = job.ledger()
    assert ledger.balanced
    assert ledger.in_flight == 0
    assert job.slots_of(Member(1, 1)) == 0


def test_a_name_is_claimed_once(cluster):
    members = cluster(3).found()
    won = ask_all(members, "race", "name", 100)
    assert sorted(turn for turns in won for turn in turns) == list(range(100))
    assert members[0].ask("claimant", "name-0") in {Member(seat, 0) for seat in range(3)}
    assert members[0].ask("claimant", "other") is None
    for turn, member in ((turns[0], member) for turns, member in zip(won, members, strict=True) if turns):
        assert members[0].ask("claimant", f"name-{turn}") == member.ask("me")


def test_a_seat_is_taken_once(cluster):
    job = cluster(2)
    job.found()
    with pytest.raises(Exception, match="got seat 1, which a living"):
        job.join(1)
    with pytest.raises(Exception, match="got seat 7, expected 0 to 1"):
        job.join(7)


def test_a_closed_member_counts_as_dead(cluster):
    job = cluster(2)
    here, there = job.found()
    there.ask("close")
    assert here.ask("bury") == [Member(1, 0)]


def test_parts_that_cannot_reach_each_other_go_on_apart_and_meet_again(cluster):
    job = cluster(4)
    here, there, beyond, _ = job.found()
    assert here.ask("push", 2)
    job.part(0, 0, 1, 1)
    assert here.ask("choosable") == [1]
    assert beyond.ask("choosable") == [3]
    assert beyond.ask("poll") == 0, "the mail is kept, not lost"
    assert here.ask("push", 1)
    assert there.ask("poll") == 1
    job.kill(3)
    assert here.ask("bury") == [], "nothing is known of the life of a member that is out of reach"
    assert beyond.ask("bury") == [Member(3, 0)]
    assert job.ledger().balanced
    job.part(0, 0, 0, 0)
    assert beyond.ask("poll") == 1
    assert beyond.ask("read_messages") == [(0, 1)]
    assert here.ask("bury") == [Member(3, 0)]
    assert here.ask("choosable") == [1, 2]
    ledger = job.ledger()
    assert (ledger.balanced, ledger.in_flight) == (True, 0)
    assert sum(member.ask("torn_messages") for member in (here, there, beyond)) == 0


def test_mass_out_of_reach_is_not_issued_again(cluster):
    """A joiner whose side holds no mass waits: the other side may hold it all."""
    job = cluster(1, seats=2)
    (here,) = job.found()
    job.part(0, 1)
    again = job.join(1)
    again.ask("meet")
    assert here.ask("meet") == [Member(1, 0)]
    assert again.ask("inherit", 1) == 0
    job.part(0, 0)
    assert again.ask("inherit", 1) == 0
    job.kill(0)
    again.ask("bury")
    assert again.ask("inherit", 1) == TOTAL
    assert job.ledger().balanced
