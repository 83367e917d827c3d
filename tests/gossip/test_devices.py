"""The order of copy, event, announcement, merge and acknowledgement on a device, shown by a recording one."""

import pytest
import torch
from support.streams import FakeStreams
from torch import nn

from gossip import layout
from gossip.consensus import OnlineEstimate
from gossip.devices import Accelerator, Host, Pages, device_of
from gossip.driver import DriverError
from gossip.flat import Flat
from gossip.layout import FLAG, Member, State
from gossip.ledger import audit
from gossip.mass import TOTAL, share_out
from gossip.messages import Messages
from gossip.outbox import Outbox
from gossip.transports.in_process import InProcess, Meeting

pytestmark = pytest.mark.timeout(100)

D = 16  # elements of a weight matrix of 4 x 4, 64 bytes


class Worker:
    """A queue of a small model whose weights are on a fake device."""

    def __init__(self, meeting: Meeting, seat: int, slots: int = 1, overlap: bool = False) -> None:
        self.streams = FakeStreams()
        self.model = nn.Linear(4, 4, bias=False)
        self.model.weight.data.fill_(float(seat))
        self.flat = Flat(self.model)
        self.messages = Messages(self.flat, 0, Accelerator(self.streams))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        if overlap:
            self.messages.overlap(self.optimizer)
        self.transport = InProcess(meeting, seat, self.flat.dimension, slots=slots)
        mass = share_out(2)[seat]
        self.transport.words[layout.GENESIS] = mass
        self.transport.words[layout.STATE] = State.ACTIVE
        self.transport.appear()
        self.outbox = Outbox(self.transport, mass)

    def meet(self) -> None:
        self.outbox.refresh(self._merge)

    def push(self) -> bool:
        return self.outbox.push(self.outbox.peers[0], self.outbox.mass // 2, 1, self._write)

    def poll(self) -> int:
        return self.outbox.poll(self._merge)

    def bury(self) -> None:
        self.outbox.bury(self._merge)

    def step(self) -> None:
        """Add 1 to all weights."""
        self.model.weight.grad = -torch.ones(4, 4)
        self.optimizer.step()

    def announced(self) -> int:
        other = 1 - self.transport.me.seat
        return layout.sequence_of(self.transport.words[layout.post(other) + layout.COMMIT])

    def acknowledged(self) -> int:
        other = 1 - self.transport.me.seat
        word = self.transport.words[layout.receipt(2, other) + layout.ACKNOWLEDGED]
        return layout.sequence_of(word & ~FLAG)

    def _write(self, slot, letter):
        return self.messages.write(slot)

    def _merge(self, slot, weight, step, letter):
        return self.messages.merge(slot, weight, step)


def pair(**options):
    meeting = Meeting(2)
    both = Worker(meeting, 0, **options), Worker(meeting, 1, **options)
    for worker in both:
        worker.meet()
    return meeting, *both


def test_a_snapshot_is_copied_aside_behind_what_was_asked_and_recorded():
    streams = FakeStreams()
    event = Accelerator(streams).snapshot(torch.zeros(D), torch.ones(D), D)
    assert streams.log == ["record in line", "wait aside", f"copy {D} aside", "record aside"]
    assert not event.query()


def test_statistics_that_the_forward_pass_changes_are_copied_in_line():
    """Running averages of batch normalization change before the optimizer runs; only the weights wait for it."""
    streams, slot = FakeStreams(), torch.zeros(D)
    vector = torch.ones(D)
    Accelerator(streams).snapshot(slot, vector, 12)
    assert streams.log[:2] == ["copy 4 in line", "record in line"]
    vector[12:] = 7
    streams.tell()
    assert slot.tolist() == [1.0] * D


def test_a_message_is_announced_when_its_copy_is_over_and_not_before():
    meeting, here, there = pair()
    assert here.push()
    for _ in range(5):
        here.poll()
        assert there.poll() == 0
        assert here.announced() == 0
    assert here.outbox.mass == share_out(2)[0] - share_out(2)[0] // 2, "the shares have left with the snapshot"
    assert audit(meeting, 2).held[Member(0, 0)] == share_out(2)[0], "but nobody could have them yet"
    here.streams.tell()
    assert here.announced() == 0, "only a later look says so"
    here.poll()
    assert here.announced() == 1
    assert there.poll() == 1
    assert "the host waits" not in here.streams.log + there.streams.log


def test_a_merge_is_acknowledged_when_it_is_over_and_the_slot_is_free_then():
    meeting, here, there = pair(slots=1)
    here.push()
    here.streams.tell()
    here.poll()
    assert there.poll() == 1
    assert there.flat.vector[0] < 1, "merged on the stream that computes"
    for _ in range(5):
        there.poll()
        here.poll()
        assert there.acknowledged() == 0
        assert not here.push(), "the slot may still be read"
    ledger = audit(meeting, 2)
    assert (ledger.balanced, ledger.in_flight) == (True, share_out(2)[0] // 2)
    there.streams.tell()
    there.poll()
    assert there.acknowledged() == 1
    assert here.push()
    assert audit(meeting, 2).held[Member(1, 0)] == there.outbox.mass
    assert "the host waits" not in here.streams.log + there.streams.log


def test_mass_that_came_is_passed_on_after_its_receipt_only():
    meeting, here, there = pair()
    here.push()
    here.streams.tell()
    here.poll()
    there.poll()
    there.outbox.push(there.outbox.peers[0], there.outbox.mass, 1, there._write)
    for _ in range(3):
        there.poll()
        assert (there.acknowledged(), there.announced()) == (0, 0)
        assert audit(meeting, 2).balanced
    there.streams.told = 1
    there.poll()
    assert (there.acknowledged(), there.announced()) == (1, 0)
    assert audit(meeting, 2).balanced
    there.streams.tell()
    there.poll()
    assert there.announced() == 1
    assert audit(meeting, 2).held == {Member(0, 0): here.outbox.mass, Member(1, 0): 0}


def test_a_merge_does_not_overtake_a_snapshot():
    _, here, there = pair()
    there.push()
    there.streams.tell()
    there.poll()
    here.push()
    here.streams.log.clear()
    assert here.poll() == 1
    assert here.streams.log[0] == "record in line", "the stream that computes waited when the snapshot was asked for"
    slot = here.transport.slot(Member(0, 0), 0)
    assert slot.tolist() == [0.0] * D, "the weights as they were before the merge"


@pytest.mark.parametrize("overlap", [False, True])
def test_the_optimizer_does_not_overtake_a_snapshot(overlap):
    _, here, _ = pair(overlap=overlap)
    here.push()
    assert (here.streams.log[-1] == "wait in line") is not overlap, "left to the optimizer where it overlaps"
    here.step()
    assert here.streams.log[-1] == "wait in line"
    assert here.streams.log.count("wait in line") == 1
    here.streams.tell()
    assert here.transport.slot(Member(0, 0), 0).tolist() == [0.0] * D
    assert here.flat.vector.tolist() == [1.0] * D


def test_only_a_death_waits_for_the_device():
    """What was being copied to the dead is announced first, then taken back like any mail."""
    meeting, here, there = pair()
    here.push()
    here.bury()
    assert "the host waits" not in here.streams.log
    meeting.kill(there.transport.me)
    here.bury()
    assert "the host waits" in here.streams.log
    ledger = audit(meeting, 2)
    assert (here.outbox.mass, ledger.held[Member(0, 0)], ledger.in_flight) == (share_out(2)[0],) * 2 + (0,)
    assert ledger.balanced
    assert here.outbox.unread() == 0


def test_a_dead_senders_announcement_is_read_and_one_it_had_not_made_is_lost_with_its_mass():
    meeting, here, there = pair()
    here.push()
    meeting.kill(here.transport.me)
    there.bury()
    assert there.outbox.counters.received == 0
    ledger = audit(meeting, 2)
    assert (ledger.balanced, ledger.lost) == (True, share_out(2)[0])
    assert there.outbox.mass == TOTAL - share_out(2)[0]


def test_a_slot_in_the_hosts_memory_is_brought_over_in_line_before_it_is_merged():
    streams = FakeStreams("meta")
    device = Accelerator(streams)
    here = device.here(torch.ones(D, dtype=torch.float16))
    assert (here.device.type, here.dtype, streams.log) == ("meta", torch.float16, [f"copy {D} in line"])
    assert device.here(torch.ones(D, dtype=torch.float16)) is here, "one place is enough: the stream keeps the order"
    assert device.here(torch.ones(D)).dtype == torch.float32


class Noted(Pages):
    """Notes what it would ask the driver for."""

    def __init__(self, able: bool | None) -> None:
        super().__init__(torch.device("meta"))
        self.able = able
        self.log: list[tuple[str, int]] = []

    def _register(self, start, size):
        self.log.append(("lock", size))
        if self.able is None:
            raise DriverError("no more")
        return self.able

    def _unregister(self, start):
        self.log.append(("unlock", start))


def test_pages_are_locked_once_and_let_go_with_the_slot():
    """What is mapped later at the same address is other memory."""
    pages, slot = Noted(True), torch.zeros(D)
    start = slot.data_ptr()
    for part in (slot, slot[:4], slot[4:], slot.view(torch.bfloat16)[:D]):
        pages.lock(part)
    assert pages.log == [("lock", 4 * D)]
    del part, slot
    assert pages.log[1:] == [("unlock", start)]
    again = torch.zeros(D)
    pages.lock(again)
    assert pages.log[2:] == [("lock", 4 * D)]


def test_pages_that_somebody_else_has_locked_are_left_locked():
    pages, slot = Noted(False), torch.zeros(D)
    pages.lock(slot)
    del slot
    assert pages.log == [("lock", 4 * D)]
    again = torch.zeros(D)
    pages.lock(again)
    assert len(pages.log) == 2, "what lies at the same address later is looked at anew"
    assert not pages.complained


def test_pages_that_cannot_be_locked_are_said_once(caplog):
    pages = Noted(None)
    kept = [torch.zeros(D) for _ in range(3)]
    for slot in kept:
        pages.lock(slot)
    assert len(caplog.records) == 1
    assert pages.complained


def test_on_the_cpu_everything_is_over_at_once():
    device, slot, vector = Host(), torch.zeros(D), torch.ones(D)
    assert device.snapshot(slot, vector, D) is None
    assert slot.tolist() == vector.tolist()
    assert device.here(slot) is slot
    assert device.mark() is None
    device.guard()
    assert isinstance(device_of(vector), Host)


def test_nothing_on_the_step_path_asks_a_device_for_a_number():
    """Tensors without memory have no values: whatever would make the host wait for one fails, or leaves the device."""
    meta = torch.device("meta")
    flat = type("Flat", (), {"vector": torch.empty(100_000, device=meta), "weights": 90_000})()
    messages = Messages(flat, 0, Host())
    for step in range(0, 100, 5):
        slot = torch.empty(100_000, dtype=torch.float16 if step % 2 else torch.float32, device=meta)
        messages.write(slot)
        messages.merge(slot, 0.5, step)
        messages.aged(1)
    with pytest.raises((RuntimeError, NotImplementedError)):
        messages.estimate.error(2)


def test_the_estimate_takes_in_what_was_left_on_a_device(monkeypatch):
    here, later = OnlineEstimate(), OnlineEstimate()
    monkeypatch.setattr("gossip.consensus._on_host", lambda tensor: False)
    for value in range(80):
        later.observe(torch.zeros(10), torch.full((10,), float(value)))
    monkeypatch.undo()
    for value in range(80):
        here.observe(torch.zeros(10), torch.full((10,), float(value)))
    assert later.error(3) == pytest.approx(here.error(3), rel=0.01)
