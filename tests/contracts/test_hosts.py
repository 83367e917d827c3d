"""What must hold between members on several hosts, as in test_transports between those on one.

Hosts are job directories of their own, so that their members find each other through NIXL; where it can be had they
have networks of their own, too.
"""

import os
import signal
import time

import pytest
from support.hosts import (
    Hosts,
    HostsWithDevices,
    HostsWithGpu,
    HostsWithGpuThroughHost,
    MixedHosts,
    why_no_network,
    why_no_nixl,
)
from support.on_devices import gpu
from support.remote import answers, ask_all, until

from benchmarks.networks import network
from gossip.layout import Member, State
from gossip.mass import TOTAL, share_out

pytestmark = [
    pytest.mark.timeout(150),
    pytest.mark.skipif(bool(why_no_nixl()), reason=why_no_nixl()),
]


ON_GPU = [
    pytest.param(kind, marks=pytest.mark.skipif(not gpu(), reason="no GPU here"))
    for kind in (HostsWithGpu, HostsWithGpuThroughHost)
]


MIXED = pytest.param(MixedHosts, marks=pytest.mark.slow)


@pytest.fixture(params=[Hosts, HostsWithDevices, MIXED, *ON_GPU], ids=lambda kind: kind.kind)
def hosts(request):
    """Makes a job on several hosts whose members are all gone at the end."""
    made = []

    def make(founders, **options):
        made.append(request.param(founders, **options))
        return made[-1]

    yield make
    for one in made:
        one.end()


def runs(members, seconds):
    """Let members push at each other, and look at the ledger meanwhile."""
    for seed, member in enumerate(members):
        member.begin("run", seed, seconds, None, 0.001)


def test_messages_pass_in_order_and_the_ledger_holds_at_every_instant(hosts):
    job = hosts(3)
    here, there, beside = job.found()
    kept = here.ask("mass")
    assert here.ask("push", 1)
    assert not here.ask("push", 1), "one unread message a pair"
    assert here.ask("mass") == kept - kept // 2
    assert there.ask("push", 0), "the other direction is a pair of its own"
    assert here.ask("push", 2)
    assert beside.ask("poll") == 1, "on this host it is there at once"
    until(lambda: there.ask("poll"))
    until(lambda: here.ask("poll"))
    assert there.ask("read_messages") == [(0, 1)]
    runs([here, there, beside], 1.5)
    ledgers = []
    while not all(member.answered() for member in (here, there, beside)):
        ledgers.append(job.ledger(attempts=100_000))
        time.sleep(0.001)
    answers([here, there, beside])
    assert [ledger for ledger in ledgers if not ledger.balanced] == []
    for member in (here, there, beside):
        steps = [step for seat, step in member.ask("read_messages") if seat == 0]
        assert steps == sorted(set(steps)), "a message was merged twice, or late"
    outcomes = ask_all([here, there, beside], "leave")
    assert sorted(outcomes) == [False, False, True]
    assert [here, there, beside][outcomes.index(True)].ask("mass") == TOTAL
    assert sum(ask_all([here, there, beside], "torn_messages")) == 0


def test_nobody_waits_for_a_member_elsewhere_that_stands_still(hosts):
    job = hosts(2)
    here, there = job.found(patience=10)
    there.signal(signal.SIGSTOP)
    sent, longest = here.ask("push_many", 1, 500)
    assert sent == 1
    assert longest < 10, "a call that waits for the other would not return at all"
    assert here.ask("choosable") == []
    there.signal(signal.SIGCONT)
    until(lambda: there.ask("poll"))
    until(lambda: here.ask("poll") == 0 and here.ask("unread") == 0)
    until(lambda: here.ask("choosable") == [1])
    assert job.ledger().balanced


def test_a_death_is_proven_by_those_who_share_the_host_and_mail_returns(hosts):
    job = hosts(3)
    here, _, beside = job.found()
    there = job.members[1]
    before = there.ask("mass")
    job.members[0].signal(signal.SIGSTOP)  # it cannot have read what is sent now
    assert there.ask("push", 0)
    job.kill(0)
    until(lambda: there.ask("bury"))
    assert there.ask("mass") == before
    assert there.ask("counters")["returned"] == 1
    until(lambda: beside.ask("bury"))
    ledger = job.ledger()
    assert (ledger.balanced, ledger.in_flight, ledger.lost) == (True, 0, share_out(3)[0])
    again = job.join(0)
    assert again.ask("me") == Member(0, 1)
    assert there.ask("push", 0)
    until(lambda: again.ask("poll"))
    assert again.ask("state") == State.ACTIVE
    assert here.runner is not again.runner
    job.rest()
    assert job.ledger().balanced


def test_a_host_that_is_gone_is_out_of_reach_until_a_newer_member_tells_what_was_read(hosts):
    job = hosts(3, where=[0, 0, 1], seats=3)
    here, beside, there = job.found()
    assert here.ask("push", 2)
    until(lambda: there.ask("poll"))
    until(lambda: here.ask("poll") == 0 and here.ask("unread") == 0)
    there.signal(signal.SIGSTOP)
    assert here.ask("push", 2)
    assert beside.ask("push", 2)
    job.kill(2)
    until(lambda: here.ask("reached") == [1])
    assert here.ask("bury") == [], "its death is not proven"
    assert here.ask("unread") == 1
    ledger = job.ledger()
    assert ledger.balanced
    job.join(2)
    until(lambda: here.ask("counters")["returned"] == 1 or here.ask("meet") is None)
    job.rest()
    ledger = job.ledger()
    assert (ledger.balanced, ledger.in_flight) == (True, 0)


def test_mail_to_a_host_whose_memory_is_gone_is_never_merged_twice(hosts):
    job = hosts(2, hosts=3, where=[0, 1])
    here, there = job.found()
    before = here.ask("mass")
    there.signal(signal.SIGSTOP)
    assert here.ask("push", 1)
    job.kill(1)
    job.where[1] = 2
    job.join(1)
    assert here.ask("counters")["given_up"] == 1
    assert here.ask("mass") == before - before // 2
    ledger = job.ledger()
    assert (ledger.balanced, ledger.in_flight, ledger.lost) == (True, 0, share_out(2)[1] + before // 2)
    assert here.ask("push", 1)
    until(lambda: job.members[1].ask("poll"))
    assert job.ledger().balanced, "what was given up stays lost when others have followed it"


@pytest.mark.skipif(bool(why_no_network()), reason=why_no_network())
@pytest.mark.parametrize("hosts", [Hosts, MIXED], ids=lambda kind: kind.kind, indirect=True)
@pytest.mark.parametrize("seconds", [7.0, *map(float, os.environ.get("GOSGD_CUTS_S", "").split())])
def test_parts_heal_by_themselves_after_a_link_was_cut(hosts, seconds):
    with network(2) as net:
        job = hosts(3, net=net)
        here, there, beside = job.found()
        runs([here, there, beside], seconds + 6)
        time.sleep(0.5)
        net.cut(1)
        time.sleep(seconds)
        net.mend(1)
        answers([here, there, beside], seconds + 60)
        until(lambda: there.ask("reached") == [0, 2], 30.0)
        until(lambda: here.ask("reached") == [1, 2], 30.0)
        job.rest()
        ledger = job.ledger()
        assert (ledger.balanced, ledger.in_flight, ledger.lost) == (True, 0, 0)
        for member in (here, there, beside):
            for sender in range(3):
                steps = [step for seat, step in member.ask("read_messages") if seat == sender]
                assert steps == sorted(set(steps)), "a message was merged twice, or late"
        assert sum(ask_all([here, there, beside], "torn_messages")) == 0
        assert sorted(ask_all([here, there, beside], "leave")) == [False, False, True]
