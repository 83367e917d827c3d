"""Servers and workers that die or stop: what dies with whom, and that no move is half made, lost or made twice."""

import random
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from support.remote import answers, in_process_of_its_own, reaped, until
from support.servers import D, Dying, Pusher, Running, Serving, check_moves, member

from gossip.directory import JobDirectory
from gossip.server.client import Center
from gossip.transports.shared_memory import SharedMemory

pytestmark = pytest.mark.timeout(60)


def test_workers_that_are_killed_in_the_middle_of_requests_leave_no_half_made_move(job):
    """Whatever was pushed is ones everywhere: an update that was applied in part would show."""
    running = Running(job)
    dimension, chance = 100_000, random.Random(1)
    witness = Pusher(str(job.path), 0, dimension)
    for _ in range(6):
        victim = in_process_of_its_own(Pusher, str(job.path), 1, dimension)
        victim.answer()
        before = running.server._shard.moves
        victim.begin("push", 1_000_000)
        until(lambda before=before: running.server._shard.moves > before + 2)
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
    check_moves(move == "push", found, workers[0].ask("peek"), count)


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


def test_workers_say_what_they_wait_for_while_a_server_is_stopped_and_go_on_after_it(job, caplog, monkeypatch):
    monkeypatch.setattr("gossip.server.waiting._COMPLAINT_S", 0.2)
    with reaped([in_process_of_its_own(Serving, str(job.path))]) as (server,):
        server.answer()
        worker = Pusher(str(job.path), 0, D)
        worker.push(3)
        server.signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            pushing = pool.submit(worker.push, 2)
            unanswered = r"worker 0: has waited \d+ s for the server to answer a 'flush' request"
            until(lambda: re.search(unanswered, caplog.text))
            assert not pushing.done()
            server.signal(signal.SIGCONT)
            assert pushing.result(20) == [4, 5]
            server.kill()
            pushing = pool.submit(worker.push, 2)
            until(lambda: re.search(r"worker 0: has waited \d+ s for the server\n", caplog.text))
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
