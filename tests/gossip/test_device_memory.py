"""Slots in memory that others map: who is met is mapped, who cannot be is written to through the host, who died."""

import ctypes
import logging

import pytest
import torch
from support.on_devices import FileIpc, OnDevices, gpu
from support.remote import in_process_of_its_own, until

from gossip.directory import JobDirectory
from gossip.driver import DriverError
from gossip.layout import Member, State
from gossip.mass import TOTAL
from gossip.transports.base import SlotLostError
from gossip.transports.device_memory import DeviceMemory
from gossip.transports.ipc import CudaIpc, as_tensor, ipc_of
from gossip.transports.shared_memory import SharedMemory

pytestmark = pytest.mark.timeout(100)

D = 64


@pytest.fixture
def directory():
    made = JobDirectory.create(4, 2)
    yield made
    made.remove()


def member(directory, seat, barred=False, slots=2, **options):
    made = DeviceMemory(directory, seat, D, torch.float32, slots, ipc=FileIpc(directory.path, barred), **options)
    made.appear()
    return made


class Elsewhere:
    """A member in a process of its own."""

    def __init__(self, path: str, seat: int) -> None:
        self.transport = member(JobDirectory.open(path), seat)

    def write(self, place: int, value: float) -> None:
        self.transport.slot(self.transport.me, place).fill_(value)


def test_a_slot_is_read_where_its_owner_wrote_it(directory):
    here, there = member(directory, 0), member(directory, 1)
    here.open(there.me), there.open(here.me)
    place = here.place(1, False, there.me)
    here.slot(here.me, place).fill_(3.0)
    assert there.slot(here.me, place).tolist() == [3.0] * D
    assert not list(directory.path.glob("*.slot-*")), "nothing lies in the host's memory"
    assert all(file.stat().st_mode & 0o077 == 0 for file in directory.path.glob("*.ipc-*")), "handles are private"


def test_everything_a_member_has_is_mapped_when_it_is_met_and_what_it_adds_when_it_is_read(directory):
    here, there = member(directory, 0), member(directory, 1)
    there.open(here.me)
    assert there._ipc.mapped == 2
    here.open(there.me)
    here.grow()
    here._growing.join()
    place = here.place(2, False, there.me)
    here.slot(here.me, place).fill_(5.0)
    assert there.slot(here.me, place)[0] == 5
    assert there._ipc.mapped == 3
    there.discard(here.me)
    assert there._ipc.mapped == 0
    assert not list(directory.path.glob("0-0.ipc-*"))


def test_what_is_mapped_outlives_its_owner_and_what_is_not_is_lost(directory):
    here = member(directory, 0)
    there = in_process_of_its_own(Elsewhere, str(directory.path), 1)
    there.answer()
    here.open(Member(1, 0))
    place = here.place(0, False, Member(1, 0))
    there.ask("write", place, 4.0)
    there.kill()
    assert here.slot(Member(1, 0), place).tolist() == [4.0] * D
    later = member(directory, 2)
    later.open(Member(1, 0))
    with pytest.raises(SlotLostError):
        later.slot(Member(1, 0), place)
    assert not list(directory.path.glob("2-0.slot-*")), "no way has to be prepared to the dead"


@pytest.mark.parametrize("first", ["memory", "all"])
def test_who_joins_gets_the_mass_of_a_message_whose_vector_died_with_its_sender(first):
    """Else that mass would be on its way for ever, and nobody would wait for the end of it."""
    job = OnDevices(1, seats=2)
    try:
        (here,), late = job.found(), job.join(1)
        here.ask("meet")
        assert here.ask("push", 1)
        if first == "memory":  # a process that ends gives it back before its lock
            for handle in job.directory.path.glob("0-0.ipc-*"):
                handle.unlink()
            late.ask("meet")
            assert late.ask("poll") == 0
        job.kill(0)
        late.ask("meet")
        until(lambda: late.ask("bury") or late.ask("mass"))
        assert (late.ask("mass"), late.ask("state")) == (TOTAL // 2, State.JOINING), "it has no weights yet"
        ledger = job.ledger()
        assert (ledger.balanced, ledger.in_flight) == (True, 0)
    finally:
        job.end()


def test_messages_to_whom_there_is_no_way_go_through_the_host_and_that_is_said_once(directory, caplog):
    here, there, beyond = member(directory, 0, barred=True), member(directory, 1, barred=True), member(directory, 2)
    with caplog.at_level(logging.WARNING, "gosgd"):
        for one in (here, there, beyond):
            for other in (here, there, beyond):
                one.open(other.me)
    assert [record.args[0] for record in caplog.records] == [0, 1]
    place = here.place(0, False, there.me)
    here.slot(here.me, place).fill_(2.0)
    assert there.slot(here.me, place).tolist() == [2.0] * D
    assert (directory.path / "0-0.slot-0").exists()
    here.grow()
    here._growing.join()
    assert (directory.path / "0-0.slot-2").exists()


def test_a_member_whose_memory_cannot_be_shared_at_all_is_understood(directory):
    here, plain = member(directory, 0), SharedMemory(directory, 1, D, torch.float32, 2)
    plain.appear()
    here.open(plain.me), plain.open(here.me)
    place = here.place(0, False, plain.me)
    here.slot(here.me, place).fill_(2.0)
    assert plain.slot(here.me, place)[0] == 2
    place = plain.place(1, False, here.me)
    plain.slot(plain.me, place).fill_(6.0)
    assert here.slot(plain.me, place)[0] == 6


def test_a_rounded_vector_is_found_in_device_memory(directory):
    here, there = member(directory, 0, wire=torch.bfloat16), member(directory, 1, wire=torch.bfloat16)
    here.open(there.me), there.open(here.me)
    place = here.place(0, False, there.me)
    here.slot(here.me, place).copy_(torch.full((D,), 1.5))
    assert (there.slot(here.me, place).dtype, there.slot(here.me, place)[-1]) == (torch.bfloat16, 1.5)
    assert here.slot(here.me, here.place(0, True, there.me)).dtype == torch.float32


def test_too_little_memory_is_said_and_the_seat_is_free_again(directory):
    class Full(FileIpc):
        def make(self, elements, dtype):
            raise DriverError(2, "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY")

    with pytest.raises(ValueError, match="got 2 slots of 256 bytes"):
        DeviceMemory(directory, 0, D, torch.float32, 2, ipc=Full(directory.path))
    assert member(directory, 0).me.seat == 0


def test_when_the_gpu_is_full_no_slot_is_added_and_that_is_said(directory, caplog):
    class Filling(FileIpc):
        def make(self, elements, dtype):
            if next(self._numbers) >= 2:
                raise DriverError(2, "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY")
            return super().make(elements, dtype)

    here = DeviceMemory(directory, 0, D, torch.float32, 1, ipc=Filling(directory.path))
    here.grow()
    here._growing.join()
    assert here.slots() == 1
    assert "no further slot, sends are skipped" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_memory_at_an_address_is_a_tensor_that_shares_it(dtype):
    memory = ctypes.create_string_buffer(D * dtype.itemsize)
    one, other = (as_tensor(ctypes.addressof(memory), D, dtype, torch.device("cpu")) for _ in range(2))
    one.copy_(torch.arange(D))
    assert (other.dtype, other.shape, other.data_ptr()) == (dtype, (D,), ctypes.addressof(memory))
    assert other.tolist() == list(range(D))
    del one
    assert other[-1] == D - 1


def test_without_a_driver_there_is_no_device_memory(monkeypatch, caplog):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("gossip.transports.ipc.ctypes.CDLL", missing)
    with pytest.raises(DriverError, match="no CUDA driver"):
        CudaIpc(torch.device("cuda", 0))
    with caplog.at_level(logging.WARNING, "gosgd"):
        assert ipc_of(torch.zeros(1)) is None
    assert "go through the host's memory" in caplog.text


class OnGpu:
    """Makes a vector on the GPU and maps another's."""

    def __init__(self) -> None:
        self.ipc = CudaIpc(torch.device("cuda", 0))

    def make(self, value: float) -> bytes:
        self.vector, handle = self.ipc.make(D, torch.float32)
        self.vector.fill_(value)
        torch.cuda.synchronize()
        return handle

    def map(self, handle: bytes) -> float:
        self.mapped = self.ipc.map(handle, D, torch.float32)
        return float(self.mapped.sum())

    def look(self) -> float:
        other = torch.zeros(1 << 24, device="cuda")  # memory that was given back would be used again
        other.fill_(9.0)
        return float(self.mapped.sum())

    def let_go(self) -> None:
        self.ipc.unmap(self.mapped)


@pytest.mark.skipif(not gpu(), reason="no GPU here")
def test_memory_of_a_gpu_that_is_mapped_outlives_its_killed_owner():
    here, there = in_process_of_its_own(OnGpu), in_process_of_its_own(OnGpu)
    here.answer(), there.answer()
    handle = there.ask("make", 2.0)
    assert here.ask("map", handle) == 2.0 * D
    there.kill()
    for _ in range(3):
        assert here.ask("look") == 2.0 * D
    here.ask("let_go")
    with pytest.raises(Exception, match="DriverError"):
        here.ask("map", handle)
    here.kill()
