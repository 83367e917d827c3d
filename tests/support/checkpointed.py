"""Small checkpoints, and where they lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainers.checkpoint_file import About
from trainers.checkpoints import Checkpoints

ABOUT = About(
    step=0,
    worker=0,
    workers=3,
    incarnation=1,
    job=0,
    method="gosgd",
    optimizer="sgd",
    fingerprint=2**62 + 1,
    dimension=64,
    packages={"torch": torch.__version__},
)


def state(value: float = 0.0) -> dict[str, Any]:
    """What is saved."""
    return {"vector": torch.full((64,), value)}


def save(folder: Path, worker: int, step: int, value: float | None = None, **about: Any) -> bool:
    """By a worker of three whose methods go on alone, unless `about` says otherwise."""
    together = about.pop("together", 0)
    said = replace(ABOUT, worker=worker, step=step, **about)
    return Checkpoints(folder, worker, together).save(said, state(worker if value is None else value))


def path_of(folder: Path, worker: int, step: int) -> Path:
    """Of a checkpoint."""
    return folder / f"worker-{worker}" / f"step-{step:09d}.safetensors"


def steps(folder: Path, worker: int) -> list[int]:
    """Of which a worker has checkpoints."""
    return sorted(int(path.stem[5:]) for path in (folder / f"worker-{worker}").iterdir())
