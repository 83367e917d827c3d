"""What others wrote makes no sense: a clear error, or it is left out and logged; no hang, no crash, no mass from it."""

import contextlib
import logging
import os
import socket
import stat
from multiprocessing.connection import Connection

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossip import layout
from gossip.directory import JobDirectory, remove_stale, root
from gossip.layout import FLAG, MASK, Member, State
from gossip.leaving import depart
from gossip.ledger import audit, extinct
from gossip.mass import TOTAL, share_out
from gossip.outbox import Outbox
from gossip.publication import Publisher
from gossip.server import protocol
from gossip.transports.in_process import InProcess, Meeting
from gossip.transports.shared_memory import SharedMemory
from gossip.transports.view import View

pytestmark = pytest.mark.timeout(60)

SEATS, DIMENSION = 3, 8
A, B = Member(0, 0), Member(1, 0)
few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

words = st.one_of(
    st.integers(0, MASK),
    st.integers(0, 3),
    st.sampled_from([MASK, FLAG, FLAG - 1, TOTAL, TOTAL // 2, TOTAL + 1, 1 << 40, (1 << 40) - 1, 1 << 63]),
    st.builds(layout.pack, st.integers(0, 5), st.integers(0, 3)),
)
about_b = st.one_of(
    st.integers(1, layout.size(SEATS) - 1),
    st.sampled_from([layout.STATE, layout.post(0), layout.receipt(SEATS, 0)]),
    st.integers(layout.post(0), layout.post(1) - 1),
)
junk = st.dictionaries(about_b, words, max_size=12)


class Merged:
    """What a member is given to merge."""

    def __init__(self) -> None:
        self.letters = []

    def __call__(self, slot, weight, step, letter):
        assert 0 < weight <= 1
        assert slot.shape == (DIMENSION,)
        assert 0 <= step <= 1 << 48
        self.letters.append(letter)


def live_on(outbox: Outbox, merge: Merged) -> None:
    """Everything a member does with what it reads of others."""
    for step in range(3):
        outbox.refresh(merge)
        for peer in [*outbox.choosable(step), *outbox.peers]:
            outbox.fed(peer)
            outbox.expects(peer)
            outbox.push(peer, outbox.mass // 2, step, lambda slot, letter: None)
        outbox.poll(merge)
        outbox.bury(merge)
        assert 0 <= outbox.mass <= TOTAL


def found(transport, mass: int) -> Outbox:
    transport.words[layout.GENESIS] = mass
    transport.words[layout.STATE] = State.ACTIVE
    transport.appear()
    return Outbox(transport, mass)


@settings(max_examples=300)
@given(st.lists(junk, min_size=1, max_size=3))
def test_a_member_lives_on_whatever_stands_in_anothers_words(changes):
    meeting, merge = Meeting(SEATS), Merged()
    mine, theirs = (InProcess(meeting, seat, DIMENSION) for seat in (0, 1))
    outbox = found(mine, share_out(2)[0])
    found(theirs, share_out(2)[1])
    outbox.refresh(merge)
    for change in changes:
        for index, value in change.items():
            theirs.words[index] = value
        live_on(outbox, merge)
    extinct(audit(meeting, 2))
    depart(outbox, 9, lambda slot, letter: None, merge)


def announce(theirs, shares: int, step: int, slot: int, sequence: int = 1) -> None:
    block = layout.details(0, sequence)
    theirs.words[block + layout.SLOT] = slot
    theirs.words[block + layout.MASS] = shares
    theirs.words[block + layout.AT_STEP] = step
    theirs.words[layout.post(0) + layout.COMMIT] = layout.pack(sequence, 0)


@pytest.mark.parametrize(
    ("shares", "step", "slot", "complaint"),
    [
        (0, 1, 0, "got 0 shares"),
        (TOTAL, 1, 0, "shares beside"),
        (MASK, 1, 0, "shares beside"),
        (5, MASK, 0, "got step 18,446,744,073,709,551,615, expected at most"),
        (5, 1, 77, "1-0.slot-77"),
        (5, 1, MASK, "slot-18446744073709551615"),
        (5, 1, 1, "mmap length is greater than file size"),
    ],
)
def test_a_peer_that_announces_nonsense_is_left_out_with_one_warning(job, caplog, shares, step, slot, complaint):
    merge, mine = Merged(), SharedMemory(job, 0, DIMENSION, torch.float32, 2)
    theirs = SharedMemory(job, 1, DIMENSION, torch.float32, 2)
    outbox = found(mine, share_out(2)[0])
    found(theirs, share_out(2)[1])
    os.truncate(theirs.file(B, "slot-1"), DIMENSION * 4 - 1)
    outbox.refresh(merge)
    assert [peer.member for peer in outbox.choosable(1)] == [B]
    announce(theirs, shares, step, slot)
    live_on(outbox, merge)
    announce(theirs, 5, 1, 0, sequence=2)
    live_on(outbox, merge)
    assert merge.letters == []
    assert outbox.choosable(1) == []
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("worker 1: left out, because what it announced makes no sense: ")
    assert complaint in warning
    theirs.words[layout.STATE] = State.GONE
    live_on(outbox, merge)
    assert outbox.peers == []
    assert [letter.sender for letter in merge.letters] == [A], "our mail to it comes back when it is gone"
    theirs.close()
    mine.close()


@pytest.fixture
def job():
    made = JobDirectory.create(SEATS, 2)
    yield made
    made.remove()


@few
@given(st.binary(max_size=3000), st.integers(0, MASK), st.binary(max_size=20), st.sampled_from(["", "0 0"]))
def test_files_of_any_bytes_and_any_length_are_read_without_harm(content, count, claim, start):
    job = JobDirectory.create(SEATS, 2)
    try:
        mine, merge = SharedMemory(job, 0, DIMENSION, torch.float32, 1), Merged()
        outbox = found(mine, share_out(2)[0])
        for name in ("1-0.lock", "1-0.slot-0", "1-0.published", "2-0.words"):
            (job.path / name).write_bytes(content[::-1])
        (job.path / "1-0.words").write_bytes(content)
        (job.path / "claim-started").write_bytes(start.encode() + claim)
        mine.board[1], mine.board[2] = 1, count
        live_on(outbox, merge)
        mine.claimant("started")
        for view in (mine, View(job)):
            audit(view, 2)
            view.members()
        publisher = Publisher(mine)
        for member in mine.everybody():
            publisher.read(member)
        mine.close()
    finally:
        job.remove()


@few
@given(st.one_of(st.binary(max_size=200), st.text('{}[]:,"seatsfound0123456789-.e ', max_size=60).map(str.encode)))
def test_a_description_of_a_job_is_read_or_refused(job, content):
    (job.path / "job.json").write_bytes(content)
    with pytest.raises(ValueError, match="got job directory"):
        JobDirectory.open(job.path)


@pytest.mark.parametrize(
    "text",
    [
        '{"seats": 3}',
        '{"seats": 1000000000, "founders": 2}',
        '{"seats": -3, "founders": 2}',
        '{"seats": 3, "founders": 0}',
        '{"seats": 3, "founders": 4}',
        '{"seats": 3, "founders": true}',
        "[3, 2]",
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_a_job_that_cannot_be_is_refused(job, text):
    (job.path / "job.json").write_text(text)
    with pytest.raises(ValueError, match="got job directory"):
        JobDirectory.open(job.path)


def receive(content: bytes) -> None:
    near, far = socket.socketpair()
    with Connection(near.detach()) as here, Connection(far.detach()) as there:
        there.send_bytes(content)
        there.close()
        with contextlib.suppress(ValueError, EOFError, OSError):
            assert isinstance(protocol.receive(here), dict)


@few
@given(st.binary(max_size=300))
def test_a_request_of_any_bytes_is_refused(content):
    receive(content)


@pytest.mark.parametrize(
    "text", ["[" * 60_000, '{"a":' * 12_000, "1" * 60_000, "1" * 70_000], ids=lambda text: text[:5]
)
def test_a_request_that_no_worker_makes_is_refused(text):
    receive(text.encode())


@pytest.fixture
def no_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_every_file_in_a_job_directory_is_the_users_alone_under_any_umask(no_umask):
    job = JobDirectory.create(SEATS, 2)
    mine = SharedMemory(job, 0, DIMENSION, torch.float32, 1)
    found(mine, share_out(2)[0])
    Publisher(mine).publish(torch.zeros(DIMENSION), 1)
    assert mine.claim("started")
    protocol.make_key(job.path, 0)
    mine.grow()
    mine.close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in job.path.rglob("*")}
    assert {name for name, mode in modes.items() if mode != 0o600} == set()
    assert {"board", "job.json", "owner.lock", "0-0.words", "0-0.slot-1", "0-0.published", "claim-started"} <= set(
        modes
    )
    assert stat.S_IMODE(job.path.stat().st_mode) == 0o700
    job.remove()


@pytest.mark.parametrize("mode", [0o770, 0o701, 0o755])
def test_a_job_directory_that_others_can_enter_is_refused(job, mode):
    job.path.chmod(mode)
    with pytest.raises(ValueError, match="somebody else may have put files into it"):
        JobDirectory.open(job.path)


def test_a_job_directory_of_another_user_is_refused(job, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ValueError, match=r"of user .* expected a directory of this user's"):
        JobDirectory.open(job.path)


def test_a_link_is_no_job_directory_and_what_it_points_to_is_left_alone(job, tmp_path):
    link = root() / "gosgd-link"
    (tmp_path / "thesis.txt").touch()
    link.symlink_to(tmp_path)
    assert remove_stale() == []
    assert (tmp_path / "thesis.txt").exists()
    link.unlink()
    link.symlink_to(job.path)
    with pytest.raises(ValueError, match="expected a directory of this user's"):
        JobDirectory.open(link)
    link.unlink()
    (job.path / "0-0.words").symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(OSError, match=r"0-0\.words"):
        SharedMemory(job, 0, DIMENSION, torch.float32, 1)
    assert not any(View(job).open(A))
