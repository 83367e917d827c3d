"""Members that come and go for days: what is left of them in whoever stays, and in shared memory."""

import contextlib
import os
import resource
from pathlib import Path

import pytest
import torch
from support.members import Processes
from support.remote import RemoteError, in_process_of_its_own

from gossip import layout
from gossip.directory import JobDirectory
from gossip.layout import Member, State
from gossip.mass import TOTAL
from gossip.open_files import check
from gossip.outbox import Outbox
from gossip.transports.shared_memory import SharedMemory
from gossip.transports.view import View

pytestmark = pytest.mark.timeout(60)

D = 64


@pytest.fixture
def directory():
    made = JobDirectory.create(2, 1)
    yield made
    made.remove()


def enter(directory, seat):
    made = SharedMemory(directory, seat, D, torch.float32, 2)
    made.appear()
    return made


def open_files(pid, directory):
    """How many of a job's files a process has open."""

    def of_the_job(link):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            return link.readlink().is_relative_to(directory.path) and link.exists()

    return sum(map(bool, map(of_the_job, Path(f"/proc/{pid}/fd").iterdir())))


def test_the_dead_keep_no_file_open():
    job = Processes(2)
    try:
        here, _ = job.found()
        counts = []
        for _ in range(3):
            for name in ("meet", "poll", "bury"):
                here.ask(name)
            assert job.ledger().balanced
            counts.append([open_files(pid, job.directory) for pid in (here.pid, "self")])
            job.kill(1)
            job.join(1).ask("meet")
        assert counts[1] == counts[2]
    finally:
        job.end()


def test_the_words_of_who_left_are_known_when_another_has_its_seat(directory):
    view, here = View(directory), enter(directory, 0)
    for age in range(3):
        there = enter(directory, 1)
        words = view.open(there.me)
        there.words[layout.DONE] = age
        assert words[layout.DONE] == age
        there.words[layout.STATE] = State.GONE
        there.close()
        del words
    last = enter(directory, 1)
    assert view.generations() == [1, 4]
    assert [view.open(Member(1, age))[layout.DONE] for age in range(3)] == [0, 1, 2]
    assert [view.open(Member(1, age)).readonly for age in range(4)] == [True, True, True, False]
    last.words[layout.DONE] = 7
    assert view.open(last.me)[layout.DONE] == 7
    here.close()
    last.close()


def test_of_what_earlier_members_on_a_seat_have_shown_the_newest_stays(directory):
    shown = set()
    for _ in range(3):
        member = enter(directory, 1)
        member.publication(member.me, create=True)
        member.close()
        shown = {path.name for path in directory.path.glob("*.published")}
    assert shown == {"1-1.published", "1-2.published"}


class Interrupted(Member):
    """A member who is compared with others just when a slot is added."""

    def __eq__(self, other):
        self.meanwhile()
        return super().__eq__(other)

    __hash__ = Member.__hash__


def test_slots_of_the_dead_are_let_go_while_one_is_added(directory):
    here = enter(directory, 0)

    def grow():
        here.grow()
        here._growing.join()

    gone = Interrupted(1, 0)
    gone.meanwhile = grow
    here.discard(gone)
    assert here.slots() > 2
    here.close()


def test_a_member_is_shown_when_its_words_are_there_to_be_read(directory, monkeypatch):
    """Not before, on a processor that stores in another order."""
    order = []
    here = SharedMemory(directory, 0, D, torch.float32, 1)
    monkeypatch.setattr(here, "_fence", lambda: order.append(here.board[0]))
    here.appear()
    assert (order, here.board[0]) == ([0], 1)
    here.close()


def test_that_no_more_files_can_be_opened_is_no_sign_of_a_death(directory, monkeypatch):
    def full(path, size, create=False):
        raise OSError(24, "Too many open files")

    there, view = enter(directory, 1), View(directory)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many"):
        patch.setattr("gossip.transports.view.map_file", full)
        view.open(there.me)
    assert view.open(there.me)[layout.STATE] == State.STARTING
    there.close()


def test_that_no_more_files_can_be_opened_is_no_mistake_of_a_sender(directory, monkeypatch):
    def full(path, size, create=False):
        raise OSError(24, "Too many open files")

    members = [enter(directory, seat) for seat in range(2)]
    for member in members:
        member.words[layout.STATE] = State.ACTIVE
    sender, receiver = (Outbox(member, TOTAL // 2) for member in members)
    for outbox in (sender, receiver):
        outbox.refresh(lambda *message: None)
    assert sender.push(sender.peers[0], 1, 1, lambda *message: None)
    monkeypatch.setattr("gossip.transports.shared_memory.map_file", full)
    with pytest.raises(OSError, match="Too many"):
        receiver.poll(lambda *message: None)
    assert receiver.peers[0].sound
    for member in members:
        member.close()


class Cramped:
    """A process that may have a few more files open than it has."""

    def __init__(self, path: str, more: int, at_most: int | None) -> None:
        self.directory = JobDirectory.open(path)
        used = len([*Path("/proc/self/fd").iterdir()])
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if at_most is None else used + at_most
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, most))

    def fill(self, files: int) -> int:
        """Be a member who knows one other, and open more; how many it may then have open."""
        with contextlib.closing(enter(self.directory, 0)) as member:
            member.open(Member(1, 0))
            for _ in range(files):
                os.dup(0)
            assert not member.dead(Member(1, 0))
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def foresee(self, most: int, workers: int) -> None:
        """Whether so many files are enough for so many workers of four slots."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        check(workers, slots=4)


def test_a_member_opens_more_files_than_processes_usually_may(directory):
    there, hard = enter(directory, 1), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    process = in_process_of_its_own(Cramped, str(directory.path), 2, None)
    process.answer()
    assert process.ask("fill", 50) == (65536 if hard == resource.RLIM_INFINITY else min(hard, 65536))
    process.end()
    there.close()


def test_where_it_must_not_that_is_said(directory):
    there = enter(directory, 1)
    process = in_process_of_its_own(Cramped, str(directory.path), 2, 3)
    process.answer()
    with pytest.raises(RemoteError, match=r"files open that this process may have.*raise the hard limit \(ulimit -Hn"):
        process.ask("fill", 0)
    process.end()
    there.close()


def test_a_limit_that_is_too_low_for_the_workers_of_a_host_is_foreseen(directory):
    process = in_process_of_its_own(Cramped, str(directory.path), 2, None)
    process.answer()
    process.ask("foresee", 49, 4)
    with pytest.raises(RemoteError, match=r"got a hard limit of 49 open files .*, expected 56 or more for 5 workers"):
        process.ask("foresee", 49, 5)
    process.end()
