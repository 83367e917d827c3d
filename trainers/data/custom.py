"""The user's own data by `package.module:name`: Datasets, DataLoaders, or a function or class that returns them.

Imports base, loaders, sampled, sampling and sources.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from configs.base import Config, Custom, Field, import_object
from trainers.data.base import Data
from trainers.data.loaders import LoaderData, is_plain
from trainers.data.sampled import SampledData
from trainers.data.sources import DatasetSource, Sets

_EXPECTED = "a Dataset, a DataLoader, or a pair (train, test) of either"
# Reading every sample only to learn its class is acceptable up to here.
_MOST_SAMPLES_READ = 10_000


class CustomOptions(Config):
    """Options that we take ourselves; a function that names one of them as a parameter gets it as well."""

    batch_size: int | None = Field(
        default=None, ge=1, description="samples a step; null: what the DataLoader says, else 16"
    )
    eval_batch_size: int = Field(default=1000, ge=1, description="samples a forward pass in evaluation")
    train_samples: int | None = Field(
        default=None,
        ge=1,
        description="train on the first N samples of a fixed stratified order; N is a subset of any larger N",
    )
    loader_workers: int | None = Field(
        default=None,
        ge=0,
        description="processes that read samples for a worker; null: what the DataLoader says, else 0",
    )
    classes: int | None = Field(
        default=None, ge=2, description="how many; null: from `classes`, `targets` or `labels` of the data set"
    )
    test_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share that is held out where there is one Dataset, not a pair (train, test)",
    )


def build_custom(config: Custom, *, device: torch.device | str = "cpu") -> Data:
    """The data set at `package.module:name`; every option that is not in `CustomOptions` goes to the function or class.

    A map-style Dataset, and a plain DataLoader's, is drawn from as `train.sampling` says; any other loader draws its
    own order. 8-bit samples are divided by 255, others are taken as they are.

    Raises:
        ValueError: nothing at that path, options it does not take, or a result we cannot read.
    """
    path: str = config.name  # type: ignore[attr-defined]
    given = config.options("name")
    try:
        options = CustomOptions(**{name: given[name] for name in CustomOptions.model_fields if name in given})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"data.{first['loc'][0]}: got {first['input']!r}: {first['msg']}") from error
    found = _called(import_object(path), path, given)
    if isinstance(found, Data):
        return found.to(device)
    train, test = found if isinstance(found, tuple | list) and len(found) == 2 else (found, None)
    for part in (train, test):
        if part is not None and not isinstance(part, Dataset | DataLoader):
            raise ValueError(f"{path}: got {type(part).__name__}, expected {_EXPECTED}")
    batch_size = _batch_size(train, options, path)
    if not _has_random_access(train) or (test is not None and not _has_random_access(test)):
        return _from_loaders(train, test, options, batch_size, path, device)
    return _from_datasets(train, test, options, batch_size, path, device)


def _called(found: Any, path: str, given: dict[str, Any]) -> Any:
    passed = {name: value for name, value in given.items() if name not in CustomOptions.model_fields}
    if isinstance(found, Dataset | DataLoader | tuple | list) or not callable(found):
        if passed:
            raise ValueError(f"{path} is not a function, so it takes no options; got {', '.join(sorted(passed))}")
        return found
    signature = inspect.signature(found)
    named = {name for name in CustomOptions.model_fields if name in given and name in signature.parameters}
    passed |= {name: given[name] for name in named}
    try:
        signature.bind(**passed)
    except TypeError as error:
        raise ValueError(f"{path}{signature} does not fit the options given: {error}") from error
    return found(**passed)


def _has_random_access(part: Any) -> bool:
    return is_plain(part) if isinstance(part, DataLoader) else not isinstance(part, IterableDataset)


def _batch_size(train: Any, options: CustomOptions, path: str) -> int:
    own = train.batch_size if isinstance(train, DataLoader) else None
    if own is not None and options.batch_size not in (None, own):
        raise ValueError(
            f"{path}: got data.batch_size {options.batch_size}, but its DataLoader makes batches of {own}; drop one"
        )
    return options.batch_size or own or 16


def _from_loaders(
    train: Any, test: Any, options: CustomOptions, batch_size: int, path: str, device: torch.device | str
) -> LoaderData:
    if test is None:
        raise ValueError(f"{path}: cannot hold out samples of a loader that draws its own order; return (train, test)")
    if options.classes is None:
        raise ValueError(f"{path}: cannot count the classes of a loader that draws its own order; give data.classes")
    if options.train_samples is not None:
        raise ValueError(f"{path}: data.train_samples needs a data set with random access (a map-style Dataset)")
    workers = options.loader_workers or 0
    loaders = [
        part
        if isinstance(part, DataLoader)
        else DataLoader(part, size, num_workers=workers, shuffle=shuffle, drop_last=drop)
        for part, size, shuffle, drop in (
            (train, batch_size, None if isinstance(train, IterableDataset) else True, True),
            (test, options.eval_batch_size, None if isinstance(test, IterableDataset) else False, False),
        )
    ]
    return LoaderData(loaders[0], loaders[1], options.classes, batch_size=batch_size, device=device)


def _from_datasets(
    train: Any, test: Any, options: CustomOptions, batch_size: int, path: str, device: torch.device | str
) -> SampledData:
    train_source = _source(train, path)
    if test is None:
        order = np.random.RandomState(0).permutation(len(train_source)).astype(np.int64)
        held_out = max(1, round(options.test_fraction * len(order)))
        if held_out == len(order):
            raise ValueError(
                f"{path}: got a data set of {held_out}, of which data.test_fraction {options.test_fraction} leaves no"
                " sample to train on; return a pair (train, test), or lower it"
            )
        test_source = train_source.subset(np.sort(order[:held_out]))
        train_source = train_source.subset(np.sort(order[held_out:]))
    else:
        test_source = _source(test, path)
    if train_source.labels is None and (options.classes is None or options.train_samples is not None):
        train_source = _read_labels(train_source, path)
    classes = options.classes or _classes(train, train_source)
    workers = options.loader_workers
    if workers is None:
        workers = train.num_workers if isinstance(train, DataLoader) else 0
    return SampledData(
        Sets(replace(train_source, classes=classes), replace(test_source, classes=classes), classes),
        batch_size=batch_size,
        eval_batch_size=options.eval_batch_size,
        train_samples=options.train_samples,
        normalize=False,
        loader_workers=workers,
        device=device,
    )


def _source(part: Any, path: str) -> DatasetSource:
    dataset = part.dataset if isinstance(part, DataLoader) else part
    if not hasattr(dataset, "__len__") or not len(dataset):
        raise ValueError(f"{path}: got a {type(dataset).__name__} without samples or without __len__")
    source = DatasetSource(dataset, labels_of(dataset))
    if isinstance(part, DataLoader):
        source.collate, source.setup = part.collate_fn, part.worker_init_fn
    source.read([0])
    return source


def labels_of(dataset: Any) -> Tensor | None:
    """Class of every sample as far as a data set says so: `targets`, `labels`, a TensorDataset's last tensor."""
    if isinstance(dataset, Subset):
        inner = labels_of(dataset.dataset)
        return None if inner is None else inner[torch.as_tensor(list(dataset.indices))]
    if isinstance(dataset, TensorDataset):
        found: Any = dataset.tensors[-1]
    else:
        found = getattr(dataset, "targets", getattr(dataset, "labels", None))
    try:
        labels = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        return None
    known = not labels.is_floating_point() and labels.dim() == 1 and len(labels) == len(dataset)
    return labels.long() if known else None


def _read_labels(source: DatasetSource, path: str) -> DatasetSource:
    if len(source) > _MOST_SAMPLES_READ:
        raise ValueError(
            f"{path}: cannot tell the classes of {len(source)} samples without reading them all;"
            " give data.classes and, for data.train_samples, an attribute `targets` (one class a sample)"
        )
    labels = torch.cat([source.read([index])[1] for index in range(len(source))])
    return replace(source, labels=labels)


def _classes(part: Any, source: DatasetSource) -> int:
    dataset = part.dataset if isinstance(part, DataLoader) else part
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple):
        return len(names)
    assert source.labels is not None
    return int(source.labels.max()) + 1
