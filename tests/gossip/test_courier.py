"""What a member keeps of its connection to one on another host that stands still, dies or comes back."""

import contextlib
import threading
import time
from pathlib import Path

import pytest
import torch
from support.hosts import why_no_nixl
from support.remote import PATIENCE_S, until
from support.two_hosts import D, announce, meet, shown, two_hosts, vector

from gossip.layout import Member
from gossip.publication import Publisher
from gossip.transports.nixl import LinkError

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(bool(why_no_nixl()), reason=why_no_nixl())]


@pytest.fixture
def hosts(monkeypatch):
    """Has members enter a job on two hosts."""
    monkeypatch.setenv("UCX_TLS", "tcp")
    with two_hosts() as enter:
        yield enter


def sockets():
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found += str(link.readlink()).startswith("socket:")
    return found


class Still:
    """A member that stands still, as one that is stopped does: its connections live on."""

    def __init__(self, member):
        self._courier = member._courier

    def __enter__(self):
        stands = threading.Event()

        def turn(now):
            stands.set()
            time.sleep(0.02)

        self._courier._turn = turn
        assert stands.wait(PATIENCE_S)

    def __exit__(self, *reason):
        del self._courier._turn


def test_what_is_being_read_of_who_stands_still_keeps_its_place_until_it_has_come(hosts, monkeypatch):
    """It cannot be taken back: once its sender goes on, it is written there."""
    monkeypatch.setattr("gossip.transports.courier.SILENCE_S", 0.5)
    here, there = hosts(0), hosts(1)
    meet(here, there)
    with Still(here):
        announce(there, here, 3.0)
        announced = time.monotonic()
        until(lambda: there._link(here.me).told_at > announced)
        still = Still(there)
        still.__enter__()
    link = here._link(there.me)
    until(lambda: link.transfer is not None)
    until(lambda: not here.reachable(there.me))
    connections = sockets()
    time.sleep(1.5)
    assert here._vectors._free == [0], "the other place may be written to at any time"
    assert sockets() <= connections, "nor are there ever more connections to it"
    still.__exit__()
    until(lambda: shown(there, here))
    assert vector(there, here).tolist() == [3.0] * D
    until(lambda: here.reachable(there.me))


def test_what_a_member_says_of_itself_holds_though_the_store_tells_of_its_start_later(hosts):
    here, there = hosts(0), hosts(1)
    meet(here, there)
    there.publication(there.me, create=True)
    link = here._link(there.me)
    until(lambda: link.about.published)
    here.introduce(there.about)
    until(lambda: not here._courier._introduced)
    time.sleep(0.05)
    assert link.about.published


def refusing(member, monkeypatch):
    """Have nothing more registered for a member, as where the pages a process may lock are used up."""

    def refuse(*tensors):
        raise LinkError("no more pages")

    monkeypatch.setattr(member._engine, "register", refuse)


def test_a_slot_that_other_hosts_cannot_read_costs_no_connection(hosts, monkeypatch, caplog):
    here, there = hosts(0), hosts(1)
    meet(here, there)
    refusing(here, monkeypatch)
    for _ in range(2):
        here.grow()
        here._growing.join()
        here._courier.urgent(None)
        until(lambda: here._full)
    assert here.slots() == 3, "no more are added"
    announce(here, there, 3.0)
    until(lambda: shown(here, there))
    assert [record.getMessage() for record in caplog.records if "cannot read" in record.getMessage()] == [
        "worker 0: other hosts cannot read its slot 2: no more pages"
    ]


def test_memory_that_other_hosts_cannot_read_is_refused_at_the_start(hosts, monkeypatch):
    here = hosts(0)
    refusing(here, monkeypatch)
    with pytest.raises(ValueError, match="got memory that other hosts cannot read"):
        here.appear()
    assert here.generations() == [0, 0]


def test_what_a_worker_shows_is_read_where_what_its_predecessor_showed_was(hosts):
    """Else each life of a worker elsewhere would take two more vectors."""
    here, there = hosts(0), hosts(1)
    meet(here, there)
    reader, places = Publisher(here), set()
    for step in (1, 2):
        Publisher(there).publish(torch.full((D,), float(step)), step)
        published = until(lambda there=there: reader.read(there.me))
        assert (published.vector.tolist(), published.step) == ([float(step)] * D, step)
        places.add(here.publication(there.me).data_ptr())
        if step == 1:
            there.close()
            until(lambda there=there: here.dead(there.me))
            there = hosts(1, generation=1)
            there.appear()
            there.introduce(here.about)
            until(lambda there=there: here.generations() == [1, 2] and here.reachable(there.me))
    assert len(places) == 1
    assert reader.read(Member(1, 0)) is None


def test_who_leaves_waits_no_longer_than_until_it_was_heard(hosts, monkeypatch):
    monkeypatch.setattr("gossip.transports.courier._FAREWELL_S", 50.0)
    here, there = hosts(0), hosts(1)
    meet(here, there)
    began = time.monotonic()
    here.close()
    assert time.monotonic() - began < 9
    until(lambda: there.dead(here.me))


def test_a_member_that_never_appeared_leaves_no_agent(hosts):
    hosts(0).close()
    before = sockets()
    there = hosts(1)
    assert sockets() > before
    there.close()
    until(lambda: sockets() <= before)
