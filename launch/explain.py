"""`gosgd explain CONFIG`: what a job's exchange does and costs, before it is launched. Imports gossip, trainers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gossip.costs import messages
from gossip.flat import Flat
from gossip.matrices import Matrix, spectral_gap
from gossip.methods import METHODS
from gossip.methods.base import MethodConfig
from gossip.portrait import alternatives, named, portrait
from gossip.theory import stationary
from launch.errors import DONE
from launch.settings import blame, read
from launch.units import size as bytes_of
from trainers import data as datasets
from trainers import models, regularization
from trainers.schema import Run, options

_WHOLE = 9
"""Rows up to which a matrix is drawn whole."""
_CORNER = 4


def run(config: str, overrides: Sequence[str], workers: int | None, as_json: bool) -> int:
    """Print what the exchange of a configured job does.

    Raises:
        ValueError: a mistake in the configuration, or a method of the user's own, which has no matrix here.
    """
    loaded = read(config, overrides, workers)
    job = loaded.config
    count = job.run.workers
    with blame(loaded, "exchange"):
        exchange = METHODS.get(job.exchange.method).Options.of(**options(job.exchange, "method"))
        drawn = portrait(exchange, count)
    size, unknown = _vector(job)
    rows = [_row(named(exchange), exchange, count, size)]
    rows += [_row(name, other, count, size) for name, other in alternatives(exchange, count)]
    figures: dict[str, Any] = {
        "name": job.name,
        "workers": count,
        "vector_bytes": size,
        "event": drawn.event,
        "exchange": drawn.exchange.tolist(),
        "spectral_gap": spectral_gap(drawn.exchange),
        "spectral_gap_step": spectral_gap(drawn.step),
        "this": rows[0],
        "others": rows[1:],
    }
    print(json.dumps(figures, indent=2) if as_json else describe(figures, unknown))
    return DONE


def _vector(job: Run) -> tuple[int | None, str]:
    """Bytes of the exchanged vector, or why they are not known here."""
    try:
        data = datasets.build(job.data)
        model = models.build(job.model, data.shape, data.classes)
        flat = Flat(regularization.travelling(job, model, regularization.build(job, model, data)))
        data.close()
    except ValueError as error:
        return None, str(error)
    return flat.dimension * flat.vector.element_size(), ""


def _row(name: str, config: MethodConfig, workers: int, size: int | None) -> dict[str, Any]:
    sent = messages(config, workers)
    level = stationary(config, workers)
    return {
        "exchange": name,
        "messages": sent,
        "bytes": None if size is None else sent * size,
        "error": None if level is None or math.isinf(level.value) else level.value,
        "sem": None if level is None else level.sem,
        "grows": level is not None and math.isinf(level.value),
    }


def describe(figures: dict[str, Any], unknown: str) -> str:
    """The figures for a person."""
    size = figures["vector_bytes"]
    vector = f"weights of {bytes_of(size)} each" if size else f"weights of unknown size ({unknown})"
    lines = [
        f"{figures['name']}: {figures['workers']} workers, {vector}",
        "",
        f"K of {figures['event']}",
        *drawing(np.array(figures["exchange"])),
        "",
        f"spectral gap of this exchange {figures['spectral_gap']:.4g},"
        f" of the expected matrix of one step of every worker {figures['spectral_gap_step']:.4g}",
        "",
        "per worker and step                                   vectors       bytes   consensus error / (D s^2)",
        *(_line(row) for row in [figures["this"], *figures["others"]]),
        "",
        "The consensus error sum_m ||w_m - mean||^2 is that of the long run, with all workers at one pace and messages",
        "merged at once; D elements, s^2 the variance of one local update of a coordinate. What has no closed form is",
        "simulated.",
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    error = "grows without bound" if row["grows"] else "not known" if row["error"] is None else f"{row['error']:.4g}"
    if row["sem"] is not None:
        error += f" +- {row['sem']:.2g} (simulated)"
    size = "-" if row["bytes"] is None else bytes_of(row["bytes"])
    return f"  {row['exchange']:<50} {row['messages']:>8.3g}  {size:>10}   {error}"


def drawing(matrix: Matrix) -> list[str]:
    """A matrix with its rows named, only the corners of a large one."""
    size = len(matrix)
    kept = [*range(size)] if size <= _WHOLE else [*range(_CORNER), size - 1]
    names = ["w~", *(f"w{worker}" for worker in range(1, size))]
    gap = ["..."] if size > _WHOLE else []

    def spread(cells: list[str]) -> str:
        return " ".join(f"{cell:>6}" for cell in [*cells[:-1], *gap, cells[-1]])

    lines = [f"  {'':>4} {spread([names[column] for column in kept])}"]
    lines += [f"  {names[row]:>4} {spread([_entry(matrix[row, column]) for column in kept])}" for row in kept]
    if gap:
        lines.insert(-1, f"  {'...':>4}")
    return lines


def _entry(value: float) -> str:
    return "." if value == 0 else f"{value:.4g}"
