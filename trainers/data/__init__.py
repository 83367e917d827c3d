"""Data sets, one file each, and `build`, which makes any of them ready for training."""

from __future__ import annotations

import torch

from configs.base import Custom
from trainers.data import (  # noqa: F401 (rows)
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    image_folder,
    mnist,
    mnist_m,
    svhn,
    table,
)
from trainers.data.base import DATA, Batches, Data, DataConfig, ImageConfig, Position
from trainers.data.custom import build_custom
from trainers.data.sampled import SampledData
from trainers.data.sampling import Sampling
from trainers.data.sources import Batch

__all__ = ["DATA", "Batch", "Batches", "Data", "DataConfig", "Position", "Sampling", "build"]


def build(config: DataConfig | Custom, *, device: torch.device | str = "cpu") -> Data:
    """The data set that `config` describes, its batches on `device`.

    Raises:
        ValueError: files are missing or damaged, a package is missing, or the options do not fit the data.
    """
    if isinstance(config, Custom):
        return build_custom(config, device=device)
    name: str = config.name  # type: ignore[attr-defined]
    return SampledData(
        DATA.get(name)(config),
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        train_samples=config.train_samples,
        augment=config.augment if isinstance(config, ImageConfig) else None,
        normalize=config.normalize,
        loader_workers=config.loader_workers,
        device=device,
    )
