"""Which accelerator is whose, on hosts that have some as far as torch is told."""

import pytest
import torch

from gossip.accelerators import has_its_own, own_device

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def gpus(monkeypatch):
    """Lets torch see as many GPUs as a test says."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        monkeypatch.delenv(name, raising=False)

    def set_to(count: int) -> None:
        there = torch.device("cuda") if count else None
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: there)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return set_to


def test_each_worker_has_the_gpu_of_its_local_rank(gpus):
    gpus(4)
    assert [own_device(rank, 4) for rank in range(4)] == [torch.device("cuda", index) for index in range(4)]
    assert has_its_own(torch.device("cuda", 0), 4)


def test_without_accelerators_workers_are_on_the_cpu(gpus):
    gpus(0)
    assert own_device(7, 8) == torch.device("cpu")
    assert not has_its_own(torch.device("cpu"), 1)


def test_workers_share_when_asked_and_are_told_how_when_not(gpus):
    gpus(2)
    assert [own_device(rank, 4, sharing=2).index for rank in range(4)] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"got 5 workers and 2 accelerators \(cuda\).*run\.workers_per_device: 3"):
        own_device(2, 5)
    assert not has_its_own(torch.device("cuda", 0), 5)


def test_who_joins_later_takes_a_gpu_in_turn(gpus):
    gpus(2)
    assert [own_device(rank, 2).index for rank in (0, 1, 2, 3)] == [0, 1, 0, 1]


def test_a_launcher_that_shows_each_worker_one_gpu_has_chosen(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert own_device(3, 4, chosen=True) == torch.device("cuda", 0)
    assert has_its_own(torch.device("cuda", 0), 4, chosen=True)
    with pytest.raises(ValueError, match="got 4 workers and 1 accelerators"):
        own_device(3, 4)
