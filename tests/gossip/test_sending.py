"""How often gossip sends, and to which host: the byte budget, and peers of the own host first."""

import random
import time

import pytest

from gossip import layout
from gossip.layout import State
from gossip.mass import TOTAL
from gossip.outbox import Outbox
from gossip.peers import chooser
from gossip.sending import Allowance, AtRandom
from gossip.transports.in_process import InProcess, Meeting

pytestmark = pytest.mark.timeout(30)
MESSAGE = 1000


def test_a_budget_of_bytes_skips_messages_and_their_mass_stays():
    meeting = Meeting(2)
    boxes = []
    for seat in range(2):
        transport = InProcess(meeting, seat, 1, slots=2)
        boxes.append(Outbox(transport, TOTAL // 2))
        transport.words[layout.STATE] = State.ACTIVE
        transport.appear()

    def read(slot, weight, step, letter):
        """The message is merged."""

    sender, receiver = boxes
    for box in boxes:
        box.refresh(read)
    allowance = Allowance(20.0 * MESSAGE, MESSAGE)
    rule = AtRandom(sender, 1.0, chooser("uniform"), random.Random(0), allowance)
    began = time.monotonic()
    steps = 0
    while time.monotonic() - began < 1.0:
        steps += 1
        held = sender.mass
        sent = sender.counters.sent
        rule.after_step(steps, lambda slot, letter: None)
        assert sender.counters.sent > sent or sender.mass == held
        receiver.poll(read)
        sender.poll(read)
        time.sleep(0.001)
    seconds = time.monotonic() - began
    assert 20 <= sender.counters.sent <= 20 + 20 * seconds, "a second's budget at once, and then so many a second"
    assert sender.counters.skipped_bandwidth == steps - sender.counters.sent
    assert sender.mass + receiver.mass == TOTAL


def test_a_budget_below_one_message_a_second_still_lets_one_through_now_and_then():
    allowance = Allowance(0.5 * MESSAGE, MESSAGE)
    assert allowance.covers()
    allowance.spend()
    assert not allowance.covers()
    assert Allowance(None, MESSAGE).covers()


def test_hierarchical_peers_are_mostly_of_the_own_host():
    choose = chooser("hierarchical", 0.1, lambda seat: seat < 4)
    generator = random.Random(0)
    chosen = [choose([1, 2, 3, 4, 5, 6, 7], 0, sent, generator) for sent in range(10_000)]
    left = sum(seat >= 4 for seat in chosen) / len(chosen)
    assert left == pytest.approx(0.1, abs=0.015)
    assert {*chosen} == {1, 2, 3, 4, 5, 6, 7}
    assert choose([5], 0, 0, generator) == 5, "nobody else is left on this host"
    assert choose([], 0, 0, generator) is None
