"""Which of a host's accelerators is whose. Imports torch only."""

from __future__ import annotations

import os

import torch

_CHOICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""Environment variables by which a launcher shows each process the devices it may use."""


def own_device(local_rank: int, workers: int, sharing: int = 1, chosen: bool = False) -> torch.device:
    """The accelerator of a worker, or the CPU of a host that has none.

    Args:
        local_rank: among the workers of this host.
        workers: that this host began with; those that join later take the devices in turn.
        sharing: how many workers share a device, those of neighbouring ranks.
        chosen: whether a launcher that shows each process only one device has given each another one.

    Raises:
        ValueError: there are fewer accelerators than that takes.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return torch.device("cpu")
    count, index = torch.accelerator.device_count(), local_rank // sharing
    if index < count:
        return torch.device(found.type, index)
    if chosen and _shown_one():
        return torch.device(found.type, 0)
    if local_rank >= workers:
        return torch.device(found.type, index % count)
    raise ValueError(
        f"got {workers} workers and {count} accelerators ({found.type}) on this host with {sharing} workers for each,"
        f" expected at most {count * sharing} workers; let them share with run.workers_per_device:"
        f" {-(-workers // count)}, or train on the CPU with run.device: cpu"
    )


def has_its_own(device: torch.device, workers: int, chosen: bool = False) -> bool:
    """Whether each of a host's workers has an accelerator of its own; arguments as of `own_device`."""
    return device.type != "cpu" and (workers <= torch.accelerator.device_count() or (chosen and _shown_one()))


def _shown_one() -> bool:
    """Whether a launcher has already chosen this process's only device."""
    shown = [os.environ[name] for name in _CHOICES if os.environ.get(name)]
    return any("," not in devices for devices in shown)
