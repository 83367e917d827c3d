"""The generators that models, transforms and data sets may draw from: Python's, numpy's and torch's. A leaf module."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed them, torch's on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def state_of_all(device: torch.device) -> dict[str, Any]:
    """Where they stand, as a checkpoint can hold it.

    Args:
        device: that computes, whose generator is one more where it is not the CPU.
    """
    version, words, gauss = random.getstate()
    drawn: Any = np.random.get_state()
    kind, keys, place, has_gauss, cached = drawn
    return {
        "generator": torch.get_rng_state(),
        "device": device.type,
        "device_generator": _module(device).get_rng_state(device) if device.type != "cpu" else None,
        "python_generator": (version, torch.tensor(words), gauss),
        "numpy_generator": (kind, torch.from_numpy(keys.astype(np.int64)), place, has_gauss, cached),
    }


def restore_all(state: dict[str, Any], device: torch.device) -> None:
    """Go on from what `state_of_all` gave; one that is not in it stays as it is."""
    torch.set_rng_state(state["generator"])
    if device.type == state.get("device", "cuda") and state.get("device_generator") is not None:
        _module(device).set_rng_state(state["device_generator"], device)
    if "python_generator" in state:
        version, words, gauss = state["python_generator"]
        random.setstate((version, tuple(words.tolist()), gauss))
    if "numpy_generator" in state:
        kind, keys, *rest = state["numpy_generator"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


def _module(device: torch.device) -> Any:
    """torch.cuda, torch.xpu, torch.mps and the like."""
    return torch.get_device_module(device)
