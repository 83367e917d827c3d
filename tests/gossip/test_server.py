"""The server of the central variable: who gets in, what it does and says, and what it leaves for the next job."""

import logging
import os
import re
import socket
import time
from multiprocessing.connection import Client

import pytest
import torch
from support.remote import until
from support.servers import D, Pusher, Running, member

from gossip.directory import JobDirectory
from gossip.server import protocol
from gossip.server.client import Center
from gossip.server.memory import Memory, Part
from gossip.server.protocol import ServerLostError
from gossip.server.shard import Shard
from gossip.server.snapshots import KEPT, Snapshots, newest
from gossip.transports.shared_memory import SharedMemory

pytestmark = pytest.mark.timeout(60)


def test_slices_cover_the_vector_once():
    assert protocol.cuts(10, 3) == [0, 3, 6, 10]
    assert protocol.cuts(2, 4) == [0, 0, 1, 1, 2]


def test_one_worker_alone_serves_itself():
    assert protocol.placement("process", 1, supervised=False) == "sharded"
    assert protocol.placement("process", 1, supervised=True) == "process"
    assert protocol.placement("process", 2, supervised=False) == "process"
    assert protocol.placement(None, 1, supervised=False) is None


def kept(folder, values: list[float], weights: int = D, version: int = 0, model: tuple[int, int] = (0, 0)) -> Shard:
    """A shard whose part of w~ lies in a file of this folder."""
    part = Part(torch.tensor(values), min(weights, len(values)), version, model)
    return Shard(Memory.create(folder / "part.memory", part, seats=3))


def test_a_shard_makes_elastic_moves_from_the_same_old_values_and_counts_them(tmp_path):
    shard, desk = kept(tmp_path, [1.0, 2.0], version=4), torch.tensor([3.0, 2.0])
    shard.elastic(desk, 0.25)
    assert (desk.tolist(), shard.vector.tolist()) == ([2.0, 0.0], [1.5, 2.0])
    shard.peek(desk)
    assert (shard.moves, shard.version) == (1, 5)
    assert desk.tolist() == [1.5, 2.0]


def test_figures_say_what_was_asked_and_how_long_workers_waited(job):
    running = Running(job)
    center = Pusher(str(job.path), 0, D)
    center.push(5)
    center.center.close()
    running.thread.join(10)
    (figures,) = running.figures
    assert set(figures["per_second"]) == {"flush"}
    assert 0 <= figures["waiting_s"]["0"]["mean"] <= figures["waiting_s"]["0"]["max"] < 5
    assert 0 <= figures["busy"] <= 1
    assert (figures["version"], figures["workers"]) == (5, 0)


def test_nobody_gets_in_without_the_password_and_noise_does_no_harm(job):
    running = Running(job)
    where = protocol.address(job.path, 0)
    center = member(job)
    assert center.join(torch.zeros(D), [0], lambda: False)
    for noise in (b"{}", b"not json", b"[1]", b'{"do": "hello", "key": "guess", "member": [1, 0]}', b"\xff" * 70_000):
        with Client(where, family="AF_UNIX") as stranger, pytest.raises((EOFError, OSError)):
            stranger.send_bytes(noise)  # the longest is cut off before it has been sent
            stranger.recv_bytes()
    with socket.socket(socket.AF_UNIX) as raw:  # connects, and says nothing
        raw.connect(where)
        center.desk.fill_(2.0)
        assert center.flush(1.0) == [1]
    assert (job.path / "center-0.key").stat().st_mode & 0o77 == 0
    center.close()
    running.thread.join(10)
    assert not running.thread.is_alive()


def test_a_worker_with_another_model_is_told_so(job):
    running = Running(job)
    first, second = member(job), member(job, 1, fingerprint=5)
    first.join(torch.zeros(D), [0], lambda: False)
    with pytest.raises(ValueError, match="got another model on worker 1, expected the same model on every worker"):
        second.join(torch.zeros(D), [0], lambda: False)
    second.close()
    first.close()
    running.thread.join(10)


def test_founders_wait_for_each_other_but_not_for_ever_and_say_so(caplog, monkeypatch):
    monkeypatch.setattr("gossip.server.waiting._COMPLAINT_S", 0.1)
    job = JobDirectory.create(2, 2)
    began = time.monotonic()
    running = Running(job, start_s=1.0)
    center = member(job)
    with caplog.at_level(logging.WARNING):
        assert center.join(torch.ones(D), [0], lambda: False)
    assert 1.0 <= time.monotonic() - began < 20
    assert re.search(r"worker 0: has waited \d+ s for the other workers to come up", caplog.text)
    assert "starts without workers [1], which have not come up" in caplog.text
    center.close()
    running.end()
    job.remove()


def test_a_worker_that_is_interrupted_while_it_waits_goes(job):
    center = member(job)
    assert center.join(torch.zeros(D), [0], lambda: True) is False
    job2 = JobDirectory.create(2, 2)
    running = Running(job2)
    waiting, deadline = member(job2), time.monotonic() + 0.3
    assert waiting.join(torch.zeros(D), [0], lambda: time.monotonic() > deadline) is False
    waiting.close()
    running.end()
    job2.remove()


def test_who_comes_when_all_have_left_is_told_so(job):
    running = Running(job)
    center = member(job)
    center.join(torch.zeros(D), [0], lambda: False)
    assert center.leave()
    center.close()
    running.thread.join(10)
    with pytest.raises(ServerLostError, match="there is nothing left to join"):
        member(job, 1).join(torch.zeros(D), [0], lambda: False)


def test_a_place_whose_path_is_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"sockets would have paths of \d+ bytes, expected at most 107"):
        protocol.check_address(tmp_path / ("x" * 80), 2)
    protocol.check_address(tmp_path.parent.parent, 2)


def test_a_move_that_was_not_finished_was_not_made(tmp_path):
    """What the server does not live to commit leaves w~ as it was, however far it had come."""
    shard = kept(tmp_path, [1.0, 2.0, 3.0])
    shard.flush(torch.ones(3), 0.5, seat=1, request=7)
    shard.memory.spare.fill_(float("nan"))
    memory = Memory.open(tmp_path / "part.memory", seats=3)
    assert memory.vector.tolist() == [2.0, 3.0, 4.0]
    assert (memory.moves, memory.last(1), memory.last(0)) == (1, (7, 1), (0, 0))
    Shard(memory).fetch(torch.empty(3), seat=0, request=3)
    assert memory.vector.tolist() == [2.0, 3.0, 4.0], "a fetch keeps the vector and counts as a move"
    assert (memory.moves, memory.last(1), memory.last(0)) == (2, (7, 1), (3, 2))


def test_a_snapshot_stays_although_the_clock_was_set_back(tmp_path):
    shard, snapshots = kept(tmp_path, [0.0]), Snapshots(tmp_path, 0, 1)
    for _ in range(6):
        shard.elastic(torch.ones(1), 0.5)
        snapshots.take(shard, wait=True)
        for path in tmp_path.rglob("*.safetensors"):
            ahead = time.time() + 3600 - shard.version  # as of an hour ago, when the clock was an hour ahead
            os.utime(path, (ahead, ahead))
        found = sorted(path.name for path in tmp_path.rglob("*.safetensors"))
        assert found[-1] == f"version-{shard.version:012d}.safetensors"
        assert len(found) <= KEPT


def test_snapshots_are_whole_and_the_newest_that_is_starts_the_next_job(job, tmp_path, caplog):
    running = Running(job, folder=tmp_path)
    center = Center(SharedMemory(job, 0, D, torch.float32, 0), 1, D, snapshot_s=0.05)
    center.join(torch.zeros(D), [0], lambda: False)
    folder = tmp_path / "part-0-of-1"
    for turn in (1, 2, 3):
        center.desk.fill_(1.0)
        center.flush(1.0)
        until(lambda turn=turn: (folder / f"version-{turn:012d}.safetensors").exists())
    center.desk.fill_(1.0)
    center.flush(1.0)
    assert center.leave()
    center.close()
    running.thread.join(10)
    assert sorted(path.name[-13:] for path in folder.iterdir()) == ["3.safetensors", "4.safetensors"]
    last = folder / "version-000000000004.safetensors"
    whole = last.read_bytes()
    assert newest(tmp_path, (D, 0), 0, 5).vector.tolist() == [4.0] * 5
    for damaged in (whole[:-10], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"\xff" * 3000):
        last.write_bytes(damaged)
        part = newest(tmp_path, (D, 0), 10, D)
        assert (part.version, set(part.vector.tolist()), len(part.vector)) == (3, {3.0}, D - 10)
    assert f"snapshot {last} is skipped: its checksum is wrong" in caplog.text
    assert newest(tmp_path, (D, 1), 0, D) is None, "another model"
    following = JobDirectory.create(1, 1)
    server = Running(following, folder=tmp_path)
    for version, expected in ((2, 3.0), (9, 7.0)):
        one = member(following)
        one.join(torch.full((D,), 7.0), [version], lambda: False)
        assert set(one.peek().tolist()) == {expected}
        assert one.versions == [max(version, 3)]
        one.close()
        server.thread.join(10)
        following.remove()
        if version == 2:
            following = JobDirectory.create(1, 1)
            server = Running(following, folder=tmp_path)
