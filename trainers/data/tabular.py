"""Reading .csv and .npz tables with errors that name file, line and column. Imports configs and files."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.base import suggestion
from trainers.data.files import broken


@dataclass(frozen=True)
class Table:
    """Features float64 [N, F] and the target's values [N], numbers or text."""

    x: npt.NDArray[np.float64]
    target: npt.NDArray[Any]


def read_csv(path: Path, target: str | int, delimiter: str) -> Table:
    """A table with or without a header; its first row is one if none of its cells is a number.

    Raises:
        ValueError: the file has no rows, a row has the wrong number of cells, or a feature is no finite number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise broken(path, f"cannot be read as a table of text ({error})") from error
    header = rows.pop(0)[1] if rows and not any(_is_number(cell) for cell in rows[0][1]) else None
    if not rows:
        raise ValueError(f"{path}: has no rows of data")
    width = len(header or rows[0][1])
    names = header or [str(number) for number in range(width)]
    for line, row in rows:
        if len(row) != width:
            raise ValueError(f"{path}:{line}: got {len(row)} cells, expected {width} separated by {delimiter!r}")
    if width < 2:
        raise ValueError(f"{path}: has one column separated by {delimiter!r}, expected features and a target")
    column = _column(target, header, width, path)
    features = [row[:column] + row[column + 1 :] for _, row in rows]
    try:
        x = np.array(features, dtype=np.float64)
    except ValueError:
        x = np.full((1, 1), np.nan)
    if not np.isfinite(x).all():
        for line, row in rows:
            for at, cell in enumerate(row):
                if at != column and not (_is_number(cell) and math.isfinite(float(cell))):
                    raise ValueError(f"{path}:{line}: column {names[at]!r}: got {cell!r}, expected a finite number")
    return Table(x, np.array([row[column] for _, row in rows]))


def read_npz(path: Path) -> Table:
    """Arrays `x` [N, F] and `y` [N] of a .npz file.

    Raises:
        ValueError: the file is damaged or the arrays do not fit together.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in ("x", "y") if name in held}
    except Exception as error:  # a damaged file may raise anything
        raise broken(path, f"cannot be read as .npz ({error})") from error
    if len(arrays) != 2:
        raise ValueError(f"{path}: has no array {'y' if 'x' in arrays else 'x'!r}, expected x [N, F] and y [N]")
    x, y = arrays["x"], arrays["y"]
    if x.ndim != 2 or x.shape[1] < 1 or y.shape != x.shape[:1] or not len(y) or x.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: got x {x.dtype} {list(x.shape)} and y {list(y.shape)}, expected numbers x [N, F] and y [N]"
        )
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        row, feature = (int(at[0]) for at in np.nonzero(~np.isfinite(x)))
        raise ValueError(f"{path}: x[{row}, {feature}] is {x[row, feature]}, expected a finite number")
    return Table(x, y)


def numbered(target: npt.NDArray[Any], path: str) -> tuple[npt.NDArray[np.int64], int]:
    """Classes 0 ... C - 1 of the target's values in ascending order, and C.

    Raises:
        ValueError: there is one class only, or the values are no classes.
    """
    try:
        values = target.astype(np.float64)
    except ValueError:
        values = target
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        odd = values[~(np.isfinite(values) & (values == np.round(values)))][0]
        raise ValueError(f"{path}: the target holds {odd}, expected classes (whole numbers or text), no quantities")
    found, y = np.unique(values, return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"{path}: the target holds only {str(found[0])!r}, expected at least two classes")
    return y.astype(np.int64).reshape(-1), len(found)


def _column(target: str | int, header: list[str] | None, width: int, path: Path) -> int:
    if isinstance(target, str):
        if header is None or target not in header:
            known = (
                f"columns {', '.join(header)}{suggestion(target, header)}" if header else "no header; give its number"
            )
            raise ValueError(f"{path}: got data.target {target!r}, but the file has {known}")
        return header.index(target)
    if not -width <= target < width:
        raise ValueError(f"{path}: got data.target {target}, expected a column of {-width} ... {width - 1}")
    return target % width


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
