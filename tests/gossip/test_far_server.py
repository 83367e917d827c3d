"""The server of the central variable as workers of other hosts reach it: who gets in, and what a cut link costs."""

import logging
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.far_workers import KEY, Link
from support.remote import in_process_of_its_own, reaped, until
from support.servers import Mute, check_moves
from torch.distributed import HashStore

from gossip import layout
from gossip.directory import JobDirectory
from gossip.hosts import Hosts
from gossip.server import far, stand_in
from gossip.server.client import Center
from gossip.server.far import Far, listen
from gossip.server.frames import Frames, introduce
from gossip.server.gate import Gate
from gossip.server.protocol import ServerLostError
from gossip.server.serve import Server
from gossip.transports.shared_memory import SharedMemory

pytestmark = pytest.mark.timeout(60)

D = 50_000


class Serving:
    """A server in a process of its own."""

    def __init__(self, path: str, listener: socket.socket, kind: type[Server] = Server) -> None:
        threading.Thread(target=kind(JobDirectory.open(path), restarts=True).run, daemon=True).start()
        Gate(JobDirectory.open(path), listener, KEY).start()


class Place:
    """A server in this process, and hosts whose workers reach it through a `Link`."""

    def __init__(self, workers: int, again=lambda: None, served: bool = True) -> None:
        self.directory = JobDirectory.create(4, 1 + workers)
        self.directory.give_up(0)
        self.hosts = Hosts(HashStore(), KEY, "far", [[seat] for seat in range(4)], [0])
        self.listener = listen(self.hosts)
        self.link = Link(self.listener.getsockname()[1], again)
        self.hosts.tell("center", ["127.0.0.1", self.link.port])
        self.elsewhere: list[SharedMemory] = []
        self.centers: list[Center] = []
        self.server = self.gate = None
        if served:
            self.server, self.gate = Server(self.directory, restarts=True), Gate(self.directory, self.listener, KEY)
            self.thread = threading.Thread(target=self.server.run)
            self.thread.start()
            self.gate.start()

    def worker(self, seat: int, key: bytes = KEY, generation: int = 0) -> Center:
        """One on a host of its own."""
        host = JobDirectory.create(4, 1)
        transport = SharedMemory(host, seat, D, torch.float32, 0, generation=generation)
        self.elsewhere.append(transport)
        way = Far(Hosts(self.hosts.store, key, "far", self.hosts.ranks, [seat]), transport)
        center = Center(transport, 1, D, patient=True, far=way)
        center.way = way
        self.centers.append(center)
        return center

    def joined(self, *seats: int) -> list[Center]:
        workers = [self.worker(seat) for seat in seats]
        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(lambda one: one.join(torch.zeros(D), [0], lambda: False), workers))
        return workers

    def end(self) -> None:
        for center in self.centers:
            center._hang_up()
        self.link.close()
        if self.server is not None:
            self.gate.end()
            self.server.end()
            self.thread.join(10)
            assert not self.thread.is_alive()
        self.listener.close()
        for transport in self.elsewhere:
            transport.close()
            transport.directory.remove()
        self.directory.remove()


@pytest.fixture
def place():
    made: list[Place] = []

    def make(*arguments, **options) -> Place:
        made.append(Place(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.end()


def push(center: Center, count: int) -> list[int]:
    """Add ones to w~."""
    numbers = []
    for _ in range(count):
        center.desk.fill_(1.0)
        numbers += center.flush(1.0)
    return numbers


def pull(center: Center, count: int) -> tuple[list[int], torch.Tensor]:
    """Elastic moves of a worker that adds one to its weights before each."""
    w, numbers = torch.zeros(D), []
    for _ in range(count):
        w.add_(1.0)
        numbers += center.elastic(w, 0.25)
        w.sub_(center.desk, alpha=0.25)
    return numbers, w


@pytest.mark.parametrize("move", [push, pull])
def test_a_link_that_is_cut_at_any_byte_loses_no_move_and_makes_none_twice(place, move, caplog):
    """Pushes add ones to w~; elastic moves leave the sum of w~ and all workers as it is, whatever is between them."""
    count = 60
    while not all(told in caplog.text for told in ("request had been met", "request is sent again")):
        chance = random.Random(3)  # of the bytes; whether a request is met before its link is cut is up to the threads
        job = place(2, again=lambda chance=chance: chance.randrange(1, 4 * D * 30))
        workers = job.joined(1, 2)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda one: move(one, count), workers))
        assert job.link.cuts > 5
        check_moves(move is push, found, workers[0].peek(), count)


@pytest.mark.parametrize("move", [push, pull])
def test_a_move_whose_server_died_before_it_could_answer_is_not_made_again(place, move, caplog):
    job = place(1, served=False)
    start = str(job.directory.path), job.listener
    with reaped([in_process_of_its_own(Serving, *start, Mute)]) as (dying,), ThreadPoolExecutor(1) as pool:
        dying.answer()
        (worker,) = job.joined(1)
        moving = pool.submit(move, worker, 5)
        until(lambda: not dying.runner.is_alive())
        with reaped([in_process_of_its_own(Serving, *start)]):
            found = moving.result(30)
            numbers, w = (found, 0.0) if move is push else found
            assert numbers == [1, 2, 3, 4, 5]
            torch.testing.assert_close(worker.peek() + w, torch.full((D,), 5.0))
    assert "request had been met" in caplog.text


def test_nobody_gets_in_without_the_secret_and_the_worker_is_told(place, caplog):
    job = place(2)
    with pytest.raises(ValueError, match=r"server of the central variable at .* does not have this job's secret"):
        stranger = job.worker(1)
        stranger.way._hosts = Hosts(job.hosts.store, b"of another job", "far", (), ())
        stranger.way._where = "127.0.0.1", job.link.port  # the record of it is signed, too
        stranger.join(torch.zeros(D), [0], lambda: False)
    assert "somebody on another host is not let in: got another secret than the server has" in caplog.text
    worker, _ = job.joined(1, 2)
    assert push(worker, 1) == [1]


def test_a_server_that_does_not_know_the_secret_is_given_nothing(place):
    job = place(1, served=False)
    impostor = Gate(job.directory, job.listener, b"of another job")
    impostor.start()
    with pytest.raises(ValueError, match="does not have this job's secret"):
        job.worker(1).join(torch.zeros(D), [0], lambda: False)
    impostor.end()


def test_noise_and_one_that_stops_in_the_middle_of_a_request_hold_up_nobody(place):
    job = place(2)
    workers = job.joined(1, 2)
    where = "127.0.0.1", job.listener.getsockname()[1]
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b"\x02\x00\x00\x00" + bytes(8) + b"{}"):
        with socket.create_connection(where) as raw:
            raw.sendall(noise)
    frames = Frames(socket.create_connection(where))
    introduce(frames, KEY)
    about = {"member": [3, 0], "dimension": D, "dtype": "float32", "fingerprint": 0, "words": [0] * 4}
    frames.send(
        about | {"again": False, "weights": D, "version": 0, "snapshot_s": 0, "request": 0, "under_way": "join"}
    )
    frames._socket.sendall(b"\x12\x00\x00\x00" + (4 * D).to_bytes(8, "little") + b'{"do": "offer"   }' + bytes(100))
    began = time.monotonic()
    assert push(workers[0], 5) == [1, 2, 3, 4, 5]
    assert time.monotonic() - began < 20
    frames.close()


def test_what_stands_for_a_worker_shows_how_far_it_is_and_its_weights(place):
    job = place(2)
    first, second = job.joined(1, 2)
    first._transport.words[layout.DONE] = first._transport.words[layout.STEP] = 7
    second._transport.words[layout.DONE], second._transport.words[layout.EARLIER] = 3, 20
    push(first, 1)
    push(second, 1)
    assert (second.way.total(earlier=False), second.way.total(earlier=True)) == (10, 30)
    second._transport.words[layout.DONE] = 5
    assert second.way.total(earlier=False) == 12, "its own steps since the last request count"
    first.way.show(torch.full((D,), 4.0), 7)
    push(first, 1)
    here = SharedMemory(job.directory, 0, D, torch.float32, 0)
    assert [member.seat for member in here.members()] == [1, 2]
    member = here.members()[0]
    assert not here.dead(member)
    assert here.open(member)[layout.STEP] == 7
    assert set(here.publication(member)[1].tolist()) == {4.0}
    second.leave()
    second.close()
    until(lambda: here.open(here.members()[1])[layout.STATE] == layout.State.GONE)
    here.close()


def test_a_worker_that_was_away_for_long_is_lost_and_counts_again_when_it_comes_back(place, caplog, monkeypatch):
    monkeypatch.setattr(stand_in, "GRACE_S", 0.1)
    job = place(2)
    first, second = job.joined(1, 2)
    push(second, 2)
    assert first.others() == 1
    job.server._seats._restarts = False
    second._lines[0]._frames.end()
    until(lambda: "worker 2 is gone without a word" in caplog.text)
    assert push(first, 1) == [3]
    assert first.others() == 0
    assert push(second, 1) == [4]
    assert first.others() == 1


def test_a_worker_that_is_started_again_takes_the_seat_and_the_steps_of_its_predecessor(place, caplog):
    job = place(2)
    first, second = job.joined(1, 2)
    first._transport.words[layout.STEP] = 40
    push(first, 1)
    again = job.worker(1, generation=1)
    assert again.join(torch.zeros(D), [0], lambda: False)
    assert again.way.before == 40
    assert set(again.desk.tolist()) == {1.0}
    with pytest.raises(ValueError, match="life 0 after"):
        push(first, 1)
    assert second.others() == 1


def test_a_worker_whose_server_cannot_be_reached_says_so_and_gives_up_in_time(place, caplog, monkeypatch):
    monkeypatch.setattr("gossip.server.waiting._COMPLAINT_S", 0.1)
    monkeypatch.setattr(far, "PATIENCE_S", 1.0)
    job = place(1)
    (worker,) = job.joined(1)
    job.link.close()
    with caplog.at_level(logging.WARNING), pytest.raises(ServerLostError, match="could not be reached for 1 s"):
        push(worker, 1)
    assert "the server of the central variable has gone during a 'flush' request; waits for the next one" in caplog.text
    assert re.search(r"worker 1: has waited \d+ s for the server", caplog.text)


def test_a_worker_whose_server_is_gone_with_the_store_learns_it_at_once(place, monkeypatch):
    job = place(1)
    (worker,) = job.joined(1)
    job.link.close()
    monkeypatch.setattr(worker.way, "_hosts", Hosts(HashStore(), KEY, "far", (), ()))
    monkeypatch.setattr(far, "_HEAR_S", 0.1)
    with pytest.raises(ServerLostError, match="worker 0 is gone, and torchrun's store with it"):
        push(worker, 1)
