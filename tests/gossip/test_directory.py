"""The job directory: private, removed when its job is dead, and locks that prove a death."""

import fcntl
import os
import signal
import stat
from pathlib import Path

import pytest
import torch
from support.locking import Holder
from support.remote import in_process_of_its_own, process_state, reaped, until

from gossip import directory
from gossip.directory import JobDirectory, map_file, remove_stale, root
from gossip.layout import Member
from gossip.locks import Probe, lock, unlock
from gossip.transports.shared_memory import SharedMemory
from gossip.transports.view import View

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def job():
    made = JobDirectory.create(3, 2)
    yield made
    made.remove()


def test_only_the_user_can_enter_and_nobody_can_guess(job):
    assert stat.S_IMODE(job.path.stat().st_mode) == 0o700
    assert len(job.path.name) >= 24
    again = JobDirectory.open(job.path)
    assert (again.seats, again.founders, again.path) == (3, 2, job.path)


def test_a_removed_directory_leaves_nothing(job):
    job.remove()
    assert not list(root().glob("*gosgd-*"))
    job.remove()


def test_a_directory_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=f"got job directory {tmp_path}/none, which is unreadable here"):
        JobDirectory.open(tmp_path / "none")


def test_a_missing_shared_memory_directory_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("GOSGD_SHM_DIR", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=f"got shared-memory directory {tmp_path}/none, which does not exist"):
        JobDirectory.create(1, 1)


def test_too_little_room_is_an_error_that_names_the_bytes_and_leaves_nothing(job):
    with pytest.raises(ValueError, match=r"expected 1,125,899,906,842,624 bytes; enlarge it .* or set GOSGD_SHM_DIR"):
        map_file(job.path / "huge", 1 << 50, create=True)
    assert not (job.path / "huge").exists()


def test_a_worker_whose_slots_do_not_fit_lets_go_of_its_seat(job):
    with pytest.raises(ValueError, match=r"shared memory: got .* bytes free"):
        SharedMemory(job, 0, 1 << 48, torch.float32, 1)
    SharedMemory(job, 0, 8, torch.float32, 1).close()


def test_a_lock_is_held_until_it_is_given_up(tmp_path):
    lock(tmp_path / "lock")
    assert Probe(tmp_path / "lock").held()
    with pytest.raises(FileExistsError):
        lock(tmp_path / "lock")
    unlock(tmp_path / "lock")
    probe = Probe(tmp_path / "lock")
    assert not probe.held()
    probe.close()


def test_a_lock_is_held_before_anybody_can_look_at_it(tmp_path, monkeypatch):
    really, seen = fcntl.lockf, []

    def take(*arguments):
        seen.append([file.name for file in tmp_path.glob("*.lock")])
        really(*arguments)

    monkeypatch.setattr(fcntl, "lockf", take)
    lock(tmp_path / "0-0.lock")
    assert seen == [[]]
    assert [file.name for file in tmp_path.iterdir()] == ["0-0.lock"]
    unlock(tmp_path / "0-0.lock")


def test_a_lock_outlives_many_looks_at_it_and_falls_with_its_process_alone(tmp_path):
    """Not with its forked children: they have the file open, too."""
    path = tmp_path / "lock"
    with reaped([in_process_of_its_own(Holder, str(path))]) as (holder,):
        holder.answer()
        assert holder.ask("lock"), "the owner sees its own lock"
        child = holder.ask("fork_a_child")
        try:
            for _ in range(3):
                probe = Probe(path)
                assert probe.held()
                probe.close()
            holder.signal(signal.SIGSTOP)
            assert Probe(path).held(), "a stopped process is not dead"
            holder.kill()
            assert process_state(child) not in ("", "Z")
            assert not Probe(path).held()
        finally:
            os.kill(child, signal.SIGKILL)
            until(lambda: process_state(child) in ("", "Z"))


def test_directories_of_dead_jobs_are_removed_and_those_of_living_ones_stay(job):
    with reaped([in_process_of_its_own(Holder, "")]) as (holder,):
        holder.answer()
        other = Path(holder.ask("make_a_job"))
        assert remove_stale() == []
        assert other.is_dir()
        holder.kill()
        assert remove_stale() == [other]
    assert not other.exists()
    assert job.path.is_dir()


def test_a_directory_that_is_being_made_is_left_alone_for_a_while(job):
    building = root() / ".gosgd-half"
    building.mkdir()
    assert remove_stale() == []
    old = building.stat().st_mtime - 3600
    os.utime(building, (old, old))
    assert remove_stale() == [building]


def test_another_users_directory_is_never_touched(job, monkeypatch):
    stranger = root() / "gosgd-stranger"
    stranger.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        assert remove_stale() == []
    assert remove_stale() == [stranger]


def test_a_worker_that_died_while_it_made_its_words_is_seen_as_one_that_never_wrote(job):
    """It was killed after it had created the file, before the file had a size."""
    (job.path / "0-0.lock").touch()
    (job.path / "0-0.words").touch()
    again = SharedMemory(job, 0, 8, torch.float32, 1)
    again.appear()
    view = View(job)
    assert view.everybody() == [Member(0, 0), Member(0, 1)]
    assert view.dead(Member(0, 0))
    assert not any(view.open(Member(0, 0)))
    assert not view.dead(Member(0, 1))
    again.close()
    assert View(job).dead(Member(0, 1))


def test_members_with_different_models_are_refused(job):
    here = SharedMemory(job, 0, 8, torch.float32, 1, fingerprint=1)
    there = SharedMemory(job, 1, 8, torch.float32, 1, fingerprint=2)
    with pytest.raises(ValueError, match="expected the same model on every worker"):
        here.check(there.me)
    here.close()
    there.close()


def test_ctrl_c_while_a_directory_is_made_leaves_nothing(monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    before = list(root().iterdir())
    monkeypatch.setattr(directory, "lock", interrupted)
    with pytest.raises(KeyboardInterrupt):
        JobDirectory.create(2, 2)
    assert list(root().iterdir()) == before
