"""The ledger: balanced whatever members did, whoever died, and whenever somebody looked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip import layout
from gossip.layout import Member, State
from gossip.leaving import inherit
from gossip.ledger import audit, extinct
from gossip.mass import TOTAL, share_out
from gossip.outbox import Outbox
from gossip.transports.in_process import InProcess, Meeting

pytestmark = pytest.mark.timeout(60)

SEATS = 3


def ignore(slot, weight, step, letter):
    pass


class Job:
    """Members of one thread that act when they are told to."""

    def __init__(self, founders: int = SEATS, slots: int = 2) -> None:
        self.meeting, self.founders, self.slots = Meeting(SEATS), founders, slots
        self.outboxes: dict[int, Outbox] = {}
        for seat, mass in enumerate(share_out(founders)):
            self.start(seat, mass, State.ACTIVE)
        for outbox in self.outboxes.values():
            outbox.refresh(ignore)

    def start(self, seat: int, mass: int, state: State) -> None:
        transport = InProcess(self.meeting, seat, 1, slots=self.slots)
        transport.words[layout.GENESIS] = mass
        transport.words[layout.STATE] = state
        transport.appear()
        self.outboxes[seat] = Outbox(transport, mass)

    def push(self, seat: int, to: int, whole: bool = False) -> bool:
        outbox = self.outboxes[seat]
        peer = next((peer for peer in outbox.peers if peer.member.seat == to), None)
        shares = outbox.mass if whole else outbox.mass // 2
        return peer is not None and outbox.push(peer, shares, 1, lambda slot, letter: None)

    def restart(self, seat: int) -> None:
        self.meeting.kill(self.outboxes[seat].transport.me)
        self.start(seat, 0, State.JOINING)

    def audit(self):
        return audit(self.meeting, self.founders)


events = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 2), st.integers(1, 2), st.booleans()),
        st.tuples(st.just("poll"), st.integers(0, 2)),
        st.tuples(st.just("meet"), st.integers(0, 2)),
        st.tuples(st.just("bury"), st.integers(0, 2)),
        st.tuples(st.just("restart"), st.integers(0, 2)),
    ),
    min_size=30,
    max_size=120,
)


@settings(max_examples=150)
@given(events, st.integers(1, 3))
def test_every_share_is_accounted_for_after_any_sequence_of_transfers_and_deaths(events, slots):
    job = Job(slots=slots)
    for event in events:
        match event:
            case ("push", seat, distance, whole):
                job.push(seat, (seat + distance) % SEATS, whole)
            case ("poll", seat):
                job.outboxes[seat].poll(ignore)
            case ("meet", seat):
                job.outboxes[seat].refresh(ignore)
            case ("bury", seat):
                job.outboxes[seat].bury(ignore)
            case ("restart", seat):
                job.restart(seat)
        ledger = job.audit()
        assert ledger.balanced, (event, ledger)
        assert all(outbox.mass == ledger.held[outbox.transport.me] for outbox in job.outboxes.values())
    for _ in range(3):
        for outbox in job.outboxes.values():
            outbox.refresh(ignore)
            outbox.poll(ignore)
    assert job.audit().in_flight == 0, "all mail was read or taken back"


def test_a_founder_that_never_appeared_counts_as_lost():
    meeting = Meeting(2)
    transport = InProcess(meeting, 0, 1)
    transport.words[layout.GENESIS] = share_out(2)[0]
    transport.words[layout.STATE] = State.ACTIVE
    transport.appear()
    ledger = audit(meeting, 2)
    assert ledger.balanced
    assert ledger.lost == share_out(2)[1]


def test_a_founder_that_died_before_it_wrote_what_it_holds_counts_as_lost():
    meeting = Meeting(1)
    InProcess(meeting, 0, 1).close()
    InProcess(meeting, 0, 1).appear()
    ledger = audit(meeting, 1)
    assert ledger.balanced
    assert ledger.lost == TOTAL


def test_a_job_is_extinct_when_mass_is_neither_held_nor_on_its_way():
    job = Job()
    job.push(0, 1, whole=True)
    job.restart(0)
    job.restart(2)
    assert not extinct(job.audit()), "1 holds some"
    job.restart(1)
    ledger = job.audit()
    assert extinct(ledger)
    assert ledger.balanced
    assert ledger.lost == TOTAL


def test_a_worker_that_outlives_many_others_can_always_feed_the_next_one():
    """Of two, each death takes some half of the mass along: after 62 of them nothing would be left to give."""
    job = Job(founders=2)
    survivor = job.outboxes[0]
    taken = 0
    for _ in range(150):
        job.restart(1)
        survivor.refresh(ignore)
        survivor.bury(ignore)
        taken += inherit(survivor, 2)
        job.outboxes[1].refresh(ignore)
        assert inherit(job.outboxes[1], 2) == 0, "somebody else has weights"
        assert job.push(0, 1), "it was fed"
        assert job.outboxes[1].poll(ignore) == 1
        assert job.audit().balanced
    assert taken > TOTAL


def test_who_claims_an_extinct_jobs_mass_late_takes_none_that_is_held_again(monkeypatch):
    """1 finds the job extinct; before it claims, 0 has taken all, fed 2, and died."""
    job = Job(founders=1)
    job.meeting.kill(Member(0, 0))
    for seat in (1, 2):
        job.start(seat, 0, State.JOINING)
        job.outboxes[seat].refresh(ignore)
        job.outboxes[seat].bury(ignore)
    late = job.outboxes[1]

    def claim(name):
        job.start(0, 0, State.JOINING)
        job.outboxes[0].refresh(ignore)
        assert inherit(job.outboxes[0], 1) > 0
        job.push(0, 2)
        job.outboxes[2].refresh(ignore)
        assert job.outboxes[2].poll(ignore) == 1
        job.meeting.kill(Member(0, 1))
        monkeypatch.undo()
        return late.transport.claim(name)

    monkeypatch.setattr(late.transport, "claim", claim)
    assert inherit(late, 1) == 0
    assert job.outboxes[2].mass == TOTAL // 2
    job.meeting.kill(Member(2, 0))
    late.refresh(ignore)
    late.bury(ignore)
    assert inherit(late, 1) > 0, "its turn has come now"
    assert job.audit().balanced


def test_a_founder_that_comes_after_the_mass_of_the_dead_was_issued_again_brings_its_own():
    job = Job(founders=2)
    job.meeting = Meeting(SEATS)
    job.start(0, share_out(2)[0], State.ACTIVE)
    job.restart(0)
    alone = job.outboxes[0]
    assert inherit(alone, 2) == share_out(2)[0], "and not what founder 1 may still bring"
    assert inherit(alone, 2) == 0
    job.start(1, share_out(2)[1], State.JOINING)
    ledger = job.audit()
    assert ledger.balanced
    assert ledger.lost == 0
    assert sum(ledger.held.values()) == TOTAL


class Interrupted:
    """Books whose members go on while they are copied: `act` happens at one given read of a word."""

    def __init__(self, job: Job, moment: int, act) -> None:
        self.seats, self._job, self._left, self._act = SEATS, job, moment, act

    def generations(self):
        return self._job.meeting.generations()

    def dead(self, member):
        return self._job.meeting.dead(member)

    def open(self, member):
        return _Watched(self, self._job.meeting.open(member))

    def read(self, words, index):
        self._left -= 1
        if self._left == 0:
            self._act(self._job)
        return words[index]


class _Watched:
    def __init__(self, books: Interrupted, words) -> None:
        self._books, self._words = books, words

    def __getitem__(self, index):
        return self._books.read(self._words, index)


def twice_around(job: Job) -> None:
    for _ in range(2):
        for seat in range(SEATS):
            job.push(seat, (seat + 1) % SEATS)
        for outbox in job.outboxes.values():
            outbox.poll(ignore)


def test_an_audit_is_right_whenever_two_transfers_a_pair_interrupt_it():
    """Two: details and running totals are used in turn, so the second overwrites what a word read earlier selects."""
    moment, balanced = 0, 0
    while True:
        moment += 1
        job = Job()
        twice_around(job)
        books = Interrupted(job, moment, twice_around)
        ledger = audit(books, SEATS)
        assert ledger.balanced, (moment, ledger)
        balanced += 1
        if books._left > 0:
            break
    assert balanced > SEATS * layout.size(SEATS)


def test_an_audit_gives_up_when_mass_never_stands_still():
    job = Job()

    class Restless(Interrupted):
        def read(self, words, index):
            if index == 0:
                twice_around(job)
            return words[index]

    with pytest.raises(TimeoutError, match="mass kept moving during 5 copies"):
        audit(Restless(job, 0, twice_around), SEATS, attempts=5)
