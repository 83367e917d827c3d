"""The server of the central variable: who gets in, what dies with whom, and that no move is ever half made."""

import logging
import random
import socket
import threading
import time
from multiprocessing.connection import Client

import pytest
import torch
from support.remote import in_process_of_its_own, until

from gossip.directory import JobDirectory
from gossip.server import protocol
from gossip.server.client import Center
from gossip.server.memory import Memory, Part
from gossip.server.protocol import ServerLostError
from gossip.server.serve import Server
from gossip.server.shard import Shard
from gossip.transports.shared_memory import SharedMemory

pytestmark = pytest.mark.timeout(60)

D = 1000


@pytest.fixture
def job():
    directory = JobDirectory.create(3, 1)
    yield directory
    directory.remove()


class Running:
    """A server in a thread of this process."""

    def __init__(self, directory: JobDirectory, **options) -> None:
        self.figures = []
        self.server = Server(directory, report=lambda version, found: self.figures.append(found), **options)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def end(self) -> None:
        self.server.end()
        self.thread.join(10)
        assert not self.thread.is_alive()


class Pusher:
    """A worker that does nothing but push ones."""

    def __init__(self, path: str, seat: int, dimension: int) -> None:
        directory = JobDirectory.open(path)
        self.transport = SharedMemory(directory, seat, dimension, torch.float32, 0)
        self.center = Center(self.transport, 1, dimension)
        self.center.join(torch.zeros(dimension), [0], lambda: False)

    def push(self, count: int) -> list[int]:
        numbers = []
        for _ in range(count):
            self.center.desk.fill_(1.0)
            numbers += self.center.flush(1.0)
        return numbers


def member(job: JobDirectory, seat: int = 0, dimension: int = D, fingerprint: int = 0) -> Center:
    return Center(SharedMemory(job, seat, dimension, torch.float32, 0, fingerprint), 1, dimension)


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


def test_workers_that_are_killed_in_the_middle_of_requests_leave_no_half_made_move(job):
    """Whatever was pushed is ones everywhere: an update that was applied in part would show."""
    running = Running(job)
    dimension, chance = 100_000, random.Random(1)
    witness = Pusher(str(job.path), 0, dimension)
    for _ in range(6):
        victim = in_process_of_its_own(Pusher, str(job.path), 1, dimension)
        victim.answer()
        victim.begin("push", 1_000_000)
        time.sleep(0.02 + 0.05 * chance.random())
        victim.kill()
    until(lambda: len(running.server._clients) == 1)
    number = witness.push(1)[0]
    assert number > 10
    found = witness.center.peek()
    assert set(found.tolist()) == {float(number)}
    assert witness.center.leave()
    witness.center.close()
    running.thread.join(10)
    assert not running.thread.is_alive()
    assert running.figures[-1]["version"] == number


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
        with Client(where, family="AF_UNIX") as stranger:
            stranger.send_bytes(noise)
            with pytest.raises((EOFError, OSError)):
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
    running = Running(job, start_s=0.3)
    center = member(job)
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        assert center.join(torch.ones(D), [0], lambda: False)
    assert 0.2 < time.monotonic() - began < 5
    assert "worker 0: has waited 0 s for the other workers to come up" in caplog.text
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
