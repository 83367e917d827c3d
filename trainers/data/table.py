"""Tables of numbers with one column of classes, from .csv or .npz. Imports base, sampling, sources and tabular."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from configs.base import Field
from trainers.data.base import DATA, DataConfig
from trainers.data.sampling import stratified_split
from trainers.data.sources import Sets, TensorSource
from trainers.data.tabular import Table, numbered, read_csv, read_npz


class TableConfig(DataConfig):
    """Options of a table."""

    name: Literal["table"] = "table"
    path: str = Field(min_length=1, description=".csv, or .npz with arrays x [N, F] and y [N]")
    test_path: str | None = Field(
        default=None, min_length=1, description="held-out rows; null: test_fraction of the rows of path"
    )
    target: str | int = Field(default=-1, description="column of the classes, by name or by number; -1 is the last")
    delimiter: str = Field(
        default=",", min_length=1, max_length=1, description="character between the columns of a .csv"
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="rows held out, in the same proportion from each class"
    )
    split_seed: int = Field(default=0, ge=0, lt=2**32, description="which rows are held out")


@DATA.register(TableConfig)
def table(config: TableConfig) -> Sets:
    """Reads a table; classes are the target's values in ascending order, features are standardised on training rows.

    Raises:
        ValueError: a file is missing or a cell is no number, with the file, the line and the column.
    """
    first = _read(config, config.path)
    second = None if config.test_path is None else _read(config, config.test_path)
    if second is not None and second.x.shape[1] != first.x.shape[1]:
        raise ValueError(
            f"{config.test_path} has {second.x.shape[1]} features, expected {first.x.shape[1]} as in {config.path}"
        )
    labels = first.target if second is None else np.concatenate([first.target, second.target])
    y, classes = numbered(labels, config.path)
    if second is None:
        train, test = stratified_split(y, max(1, round(config.test_fraction * len(y))), config.split_seed)
        return Sets(_source(first.x[train], y[train]), _source(first.x[test], y[test]), classes)
    rows = len(first.target)
    return Sets(_source(first.x, y[:rows]), _source(second.x, y[rows:]), classes)


def _read(config: TableConfig, given: str) -> Table:
    path = Path(given).expanduser()
    if not path.is_file():
        raise ValueError(f"table: found no file {path} (in {Path.cwd()}); set data.path to a .csv or .npz file")
    return read_npz(path) if path.suffix == ".npz" else read_csv(path, config.target, config.delimiter)


def _source(
    x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], y: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> TensorSource:
    return TensorSource(torch.from_numpy(x), torch.from_numpy(y))
