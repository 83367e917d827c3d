"""The server of the central variable: who gets in, what dies with whom, and that no move is ever half made."""

import logging
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Client
from pathlib import Path

import pytest
import torch
from support.remote import answers, in_process_of_its_own, reaped, until
from support.servers import Mute

from gossip.directory import JobDirectory
from gossip.server import protocol
from gossip.server.client import Center
from gossip.server.memory import Memory, Part
from gossip.server.protocol import ServerLostError
from gossip.server.serve import Server
from gossip.server.shard import Shard
from gossip.server.snapshots import newest
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


class Serving:
    """A server in a process of its own."""

    def __init__(self, path: str, folder: Path | None = None) -> None:
        server = Server(JobDirectory.open(path), restarts=True, folder=folder)
        threading.Thread(target=server.run, daemon=True).start()


class Dying:
    """Such a server in a process of its own."""

    def __init__(self, path: str) -> None:
        threading.Thread(target=Mute(JobDirectory.open(path)).run, daemon=True).start()


class Pusher:
    """A worker that does nothing but push ones."""

    def __init__(self, path: str, seat: int, dimension: int) -> None:
        directory = JobDirectory.open(path)
        self.transport = SharedMemory(directory, seat, dimension, torch.float32, 0)
        self.center = Center(self.transport, 1, dimension, patient=True)
        self.center.join(torch.zeros(dimension), [0], lambda: False)

    def push(self, count: int) -> list[int]:
        numbers = []
        for _ in range(count):
            self.center.desk.fill_(1.0)
            numbers += self.center.flush(1.0)
        return numbers

    def pull(self, count: int) -> tuple[list[int], torch.Tensor]:
        """Elastic moves of a worker that adds one to its weights before each."""
        w, numbers = torch.zeros(self.transport.dimension, dtype=self.transport.dtype), []
        for _ in range(count):
            w.add_(1.0)
            numbers += self.center.elastic(w, 0.25)
            w.sub_(self.center.desk, alpha=0.25)
        return numbers, w

    def peek(self) -> torch.Tensor:
        return self.center.peek().clone()


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


@pytest.fixture
def served(job):
    """Processes of one job: a server, which `again` kills and starts anew, and two workers."""
    with reaped([]) as everybody:
        start = partial(in_process_of_its_own, Serving, str(job.path))

        def again() -> None:
            everybody.pop(0).kill()
            everybody.insert(0, start())
            everybody[0].answer()

        everybody.append(start())
        everybody[0].answer()
        everybody += [in_process_of_its_own(Pusher, str(job.path), seat, 50_000) for seat in (0, 1)]
        answers(everybody[1:])
        yield everybody, again


@pytest.mark.parametrize("move", ["push", "pull"])
def test_a_server_that_is_killed_at_any_time_loses_no_move_and_makes_none_twice(served, job, move):
    """Pushes add ones to w~; elastic moves leave the sum of w~ and all workers as it is, whatever is between them."""
    (_, *workers), again = served
    chance, count = random.Random(2), 300
    for worker in workers:
        worker.begin(move, count)
    for _ in range(2):
        time.sleep(0.05 + 0.1 * chance.random())
        again()
    found = answers(workers)
    center = workers[0].ask("peek")
    if move == "push":
        assert sorted(found[0] + found[1]) == list(range(1, 2 * count + 1))
        assert set(center.tolist()) == {2.0 * count}
    else:
        assert sorted(found[0][0] + found[1][0]) == list(range(1, 2 * count + 1))
        total = center + found[0][1] + found[1][1]
        torch.testing.assert_close(total, torch.full_like(total, 2.0 * count), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("move", ["push", "pull"])
def test_a_move_whose_server_died_before_it_could_answer_is_not_made_again(job, caplog, move):
    with reaped([in_process_of_its_own(Dying, str(job.path))]) as (dying,), ThreadPoolExecutor(1) as pool:
        dying.answer()
        worker = Pusher(str(job.path), 0, D)
        moving = pool.submit(getattr(worker, move), 5)
        until(lambda: not dying.runner.is_alive())
        with reaped([in_process_of_its_own(Serving, str(job.path))]):
            found = moving.result(30)
            numbers, w = (found, 0.0) if move == "push" else found
            assert numbers == [1, 2, 3, 4, 5]
            torch.testing.assert_close(worker.peek() + w, torch.full((D,), 5.0))
            worker.center.close()
    assert "request had been met" in caplog.text


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


def test_workers_say_what_they_wait_for_while_a_server_is_stopped_and_go_on_after_it(job, caplog, monkeypatch):
    monkeypatch.setattr("gossip.server.waiting._COMPLAINT_S", 0.2)
    with reaped([in_process_of_its_own(Serving, str(job.path))]) as (server,):
        server.answer()
        worker = Pusher(str(job.path), 0, D)
        worker.push(3)
        server.signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            pushing = pool.submit(worker.push, 2)
            until(lambda: "worker 0: has waited 0 s for the server to answer a 'flush' request" in caplog.text)
            assert not pushing.done()
            server.signal(signal.SIGCONT)
            assert pushing.result(20) == [4, 5]
            server.kill()
            pushing = pool.submit(worker.push, 2)
            until(lambda: "worker 0: has waited 0 s for the server\n" in caplog.text)
            with reaped([in_process_of_its_own(Serving, str(job.path))]):
                assert pushing.result(20) == [6, 7]
                assert set(worker.peek().tolist()) == {7.0}
    assert "the server of the central variable has gone during a 'flush' request; waits for the next one" in caplog.text
    assert "the 'flush' request is sent again" in caplog.text


def test_a_worker_that_is_interrupted_while_there_is_no_server_still_knows_what_the_server_knew(job):
    stop = threading.Event()
    with reaped([in_process_of_its_own(Serving, str(job.path))]) as (server,):
        server.answer()
        center = Center(SharedMemory(job, 0, D, torch.float32, 0), 1, D, patient=True)
        center.join(torch.zeros(D), [0], stop.is_set)
        center.desk.fill_(3.0)
        assert center.flush(1.0) == [1]
        server.kill()
    threading.Timer(0.2, stop.set).start()
    assert center.fetch() is None
    assert set(center.peek().tolist()) == {3.0}
    assert center.versions == [1]
    assert center.leave() is False
    center.close()


def test_the_last_worker_to_leave_stays_so_if_a_killed_server_makes_it_ask_again(job):
    directory = JobDirectory.create(2, 2)
    running = Running(directory, restarts=True)
    first, second = member(directory), member(directory, 1)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: one.join(torch.zeros(D), [0], lambda: False), (first, second)))
    assert first.leave() is False
    assert second.leave() is True
    assert first.leave() is False
    assert second.leave() is True
    first.close()
    second.close()
    running.thread.join(10)
    assert not running.thread.is_alive()
    directory.remove()


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
