"""Slots in memory that stands for a GPU's, between hosts: read there, or through the host's where that cannot be."""

import logging
import sys

import pytest
import torch
from support.hosts import KEY, why_no_nixl
from support.on_devices import FileIpc
from support.two_hosts import D, await_each_other, carry, meet, two_hosts

from gossip import layout
from gossip.driver import DriverError
from gossip.hosts import Hosts
from gossip.hosts import enter as enter_job
from gossip.layout import Member
from gossip.transports.cluster import Cluster
from gossip.transports.device_cluster import DeviceCluster
from gossip.transports.nixl import Engine, LinkError, rdma
from gossip.transports.notes import About, Notes

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(bool(why_no_nixl()), reason=why_no_nixl())]

CPU = torch.device("cpu")


@pytest.fixture
def hosts(monkeypatch):
    """Has members enter a job on two hosts."""
    monkeypatch.setenv("UCX_TLS", "tcp")
    with two_hosts(on_device) as enter:
        yield enter


def on_device(directory, *place, ipc=None, **options):
    ways = {"ipc": ipc or FileIpc(directory.path), "device": CPU, "direct": True, **options}
    return DeviceCluster(directory, *place, **ways)


def on_host(member):
    return list(member.directory.path.glob("*.slot-*"))


def test_a_vector_goes_from_device_to_device(hosts):
    here, there = hosts(0), hosts(1)
    meet(here, there)
    vector, place = carry(here, there, 3.0)
    assert vector.tolist() == [3.0] * D
    assert place & layout.ON_DEVICE
    assert any(vector.data_ptr() == own.data_ptr() for own in there._places)
    assert not on_host(here) + on_host(there)


@pytest.mark.parametrize("wire", [torch.bfloat16, torch.float16])
def test_a_rounded_vector_goes_from_device_to_device(hosts, wire):
    here, there = hosts(0, wire=wire), hosts(1, wire=wire)
    meet(here, there)
    vector, _ = carry(here, there, 1.5)
    assert (vector.dtype, vector.tolist()) == (wire, [1.5] * D)


def test_a_slot_that_was_added_is_read_too(hosts):
    here, there = hosts(0, slots=1), hosts(1)
    meet(here, there)
    here.grow()
    here._growing.join()
    assert here.slots() == 2
    assert carry(here, there, 5.0)[0].tolist() == [5.0] * D


@pytest.mark.parametrize("other", [{"kind": Cluster}, {"direct": False}], ids=["no GPU", "not directly"])
def test_who_cannot_read_there_reads_the_hosts_memory_and_that_is_said_once(hosts, caplog, other):
    with caplog.at_level(logging.WARNING, "gosgd"):
        here, there = hosts(0), hosts(1, **other)
        meet(here, there)
        assert carry(here, there, 2.0)[0].tolist() == [2.0] * D
        assert carry(there, here, 4.0)[0].tolist() == [4.0] * D
        here.place(0, False, there.me)
    assert len(on_host(here)) == len(on_host(there)) == 2
    said = [record.getMessage() for record in caplog.records if "no direct way" in record.getMessage()]
    assert said[-1].startswith("worker 0: no direct way to the GPU of worker 1")
    assert len(said) == len({record.args[0] for record in caplog.records})


def test_memory_that_cannot_be_registered_is_read_through_the_host(hosts, caplog, monkeypatch):
    here, there = hosts(0), hosts(1)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "gosgd"):
        patch.setattr(DeviceCluster, "_own_slots", _refuse)
        there.close()
        there = hosts(1, generation=1)
    assert "other hosts cannot read the memory of this GPU: no such memory" in caplog.text
    meet(here, there)
    assert not carry(here, there, 2.0)[1] & layout.ON_DEVICE


def _refuse(member):
    raise LinkError("no such memory")


def test_too_little_memory_of_the_gpu_is_said_and_the_seat_is_free_again(hosts, tmp_path):
    class Full(FileIpc):
        def make(self, elements, dtype):
            if next(self._numbers) > 2:
                raise DriverError(2, "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY")
            return super().make(elements, dtype)

    with pytest.raises(ValueError, match="got room for less than 2 vectors of 256 bytes"):
        hosts(0, ipc=Full(tmp_path))
    assert hosts(0, generation=1).me == Member(0, 1)


@pytest.mark.parametrize(("kind", "options"), [(Cluster, {}), (on_device, {"direct": False})])
def test_too_little_memory_of_the_host_is_said(hosts, kind, options, monkeypatch):
    def full(self, path, elements, create=False):
        raise ValueError("shared memory: got 0 bytes")

    monkeypatch.setattr(Cluster, "tensor", full)
    with pytest.raises(ValueError, match="shared memory: got 0 bytes"):
        hosts(0, kind, **options)


@pytest.mark.parametrize("shared", [True, False], ids=["GPU", "no GPU"])
def test_workers_find_each_other_with_and_without_memory_that_can_be_shared(hosts, tmp_path, shared):
    store = torch.distributed.HashStore()
    ways = {"device": CPU, "ipc": FileIpc(tmp_path) if shared else None, "direct": True}

    def enter(directory, seat, dimension, dtype, slots, **options):
        job = Hosts(store, KEY, "job", ((0,), (1,)), (seat,))
        return enter_job(directory, job, seat, dimension, dtype, slots, 0, None, **ways)

    here, there = hosts(0, enter), hosts(1, enter)
    for one in (here, there):
        one.appear()
    await_each_other(here, there)
    vector, place = carry(here, there, 6.0)
    assert (vector.tolist(), bool(place & layout.ON_DEVICE)) == ([6.0] * D, shared)


def test_a_nixl_for_another_cuda_is_told_of(monkeypatch):
    monkeypatch.setitem(sys.modules, "nixl._api", None)
    with pytest.raises(ValueError, match=r"got nixl that cannot be imported .*, expected one for torch's CUDA"):
        Engine("nobody")


def test_how_a_member_can_be_reached_survives_the_way():
    about = About(Member(2, 1), b"\0how", 7, 8, 9, (10, 11), 12, 13, (14, 15), 3)
    assert Notes(KEY).read(Notes(KEY).hello(about)) == about
    assert [about.slot(word) for word in (1, 2, 1 | layout.ON_DEVICE, 2 | layout.ON_DEVICE)] == [
        (11, -1),
        (0, -1),
        (15, 3),
        (0, 3),
    ]


@pytest.mark.parametrize(("state", "up"), [("4: ACTIVE\n", True), ("1: DOWN\n", False)])
def test_a_device_that_can_read_a_gpus_memory_is_one_whose_port_is_up(tmp_path, state, up):
    assert not rdma(tmp_path)
    port = tmp_path / "mlx5_0" / "ports" / "1"
    port.mkdir(parents=True)
    (port / "state").write_text(state)
    assert rdma(tmp_path) == up
