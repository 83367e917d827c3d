"""Loss of the consensus model by step and by clock, of runs whose `metrics.jsonl` are given. Imports matplotlib."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import options
from launch.arguments import Parser


def read(path: Path) -> list[dict[str, Any]]:
    """The evaluations of one run.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if "test_loss" in line]
    except OSError as error:
        raise ValueError(f"got {path}, which cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise ValueError(f"got {path}, expected the metrics.jsonl of a run") from None


def main(arguments: list[str] | None = None) -> None:
    """Print the last point of each run, and draw all."""
    parser = Parser(prog="python -m benchmarks.gpu_curves", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--plot", type=options.output, metavar="FILE.png")
    given = parser.parse_args(arguments)
    with options.mistakes(parser):
        runs = {path.stem.removeprefix("metrics_"): read(path) for path in given.runs}
    for name, points in runs.items():
        last = points[-1] if points else {}
        print(f"{name}: {len(points)} points, last {last.get('step')}: {last.get('test_loss')}")
    if given.plot is None:
        return
    import matplotlib  # only where a plot is asked for

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_step, by_clock) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for name, points in runs.items():
        if not points:
            continue
        losses = [point["test_loss"] for point in points]
        by_step.plot([point["step"] for point in points], losses, label=name)
        by_clock.plot([point["time"] - points[0]["time"] for point in points], losses, label=name)
    by_step.set(xlabel="step of a worker", ylabel="loss of the consensus model, held out")
    by_clock.set(xlabel="seconds since the first point")
    by_step.legend()
    figure.tight_layout()
    figure.savefig(given.plot, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
