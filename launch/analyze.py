"""`gosgd analyze RUN_DIR`: what the layers of a run's consensus model hold. Imports trainers and regularizers.analysis.

Writes analysis/analysis.json and pictures into the run directory and prints a table.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.files import to_json, write_atomically
from launch.errors import DONE, say
from launch.process import let_users_modules_be_found
from regularizers.analysis.binary import binarized, relus, tune
from regularizers.analysis.collect import collect
from regularizers.analysis.edm import edm_loss, group_means
from regularizers.analysis.information import InformationPlane, plot_plane
from regularizers.analysis.modes import fit_modes, plot_modes
from regularizers.analysis.veca import veca
from regularizers.layers import Layers, linear_layers, named_layers, preactivation_layers, probe
from regularizers.row_space import row_space
from trainers.evaluation import evaluate
from trainers.finished import Finished, earlier_weights, load_finished
from trainers.run_directory import RunDirectory

PARTS = ("scores", "modes", "binary", "information")
GROUPS = 8
ROWS = 5_000
"""Samples kept of a layer for its modes: positions of a convolution are samples."""
APART = 2.0

Figures = dict[str, Any]
Batch = tuple[Tensor, Tensor]


def run(given: Namespace) -> int:
    """Analyze a finished run.

    Raises:
        ValueError: an option is wrong, or the directory holds no finished run.
    """
    parts = chosen(given.only)
    for name, least in (("samples", 4), ("steps", 1)):
        if getattr(given, name) < least:
            raise ValueError(f"--{name}: got {getattr(given, name)}, expected {least} or more")
    if {"modes", "information"} & set(parts):
        require_matplotlib()
    let_users_modules_be_found()
    torch.manual_seed(0)
    directory = RunDirectory(given.run)
    finished = load_finished(directory)
    torch.set_num_threads(finished.run.train.threads)
    layers = wanted(finished.model, given.layers)
    batches = list(first(finished.data.test_batches(), given.samples))
    folder = directory.path / "analysis"
    folder.mkdir(exist_ok=True)
    found: Figures = {
        "run": finished.run.name,
        "steps": finished.steps,
        "samples": sum(len(y) for _, y in batches),
        "accuracy": evaluate(finished.model, batches).accuracy,
        "layers": {},
    }
    if {"scores", "modes"} & set(parts):
        values = collect(finished.model, layers, batches, ROWS)
        if (z := projected(finished.model, batches)) is not None:
            values["Z"] = z
        found["layers"] = {name: measured(own) for name, own in values.items()}
        if "modes" in parts:
            plot_modes(dict(reversed(values.items())), folder / "modes.png", f"{finished.run.name}: ")
    if "binary" in parts:
        found["binary"] = binary(finished, batches, given.steps)
    if "information" in parts:
        plane = information(finished, directory, layers, batches, given.steps)
        found["information"] = [point._asdict() for point in plane.points]
        plot_plane(plane.points, folder / "information.png", finished.data.classes)
    finished.data.close()
    text = to_json(found, indent=2) + "\n"
    write_atomically(folder / "analysis.json", lambda path: path.write_text(text))
    print(text if given.json else describe(found, folder), end="")
    return DONE


def chosen(names: str | None) -> list[str]:
    """The parts of the analysis that were asked for."""
    parts = list(PARTS) if names is None else [name.strip() for name in names.split(",")]
    if unknown := [name for name in parts if name not in PARTS]:
        raise ValueError(f"--only: got {unknown[0]!r}, expected some of {','.join(PARTS)}")
    return parts


def require_matplotlib() -> None:
    """Refuse early what would end without its pictures."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("pictures need matplotlib: pip install 'gosgd[plots]', or --only scores,binary") from None


def wanted(model: nn.Module, patterns: str | None) -> Layers:
    """The layers to look at: those that give pre-activations, or those that are named."""
    if patterns is not None:
        return named_layers(model, [pattern.strip() for pattern in patterns.split(",")])
    return preactivation_layers(model)


def first(batches: Iterator[Batch] | Any, samples: int) -> Iterator[Batch]:
    """The batches that hold the first `samples` samples."""
    for x, y in batches:
        yield x[:samples], y[:samples]
        samples -= len(y)
        if samples <= 0:
            return


def projected(model: nn.Module, batches: Sequence[Batch]) -> Tensor | None:
    """Z: the representation before the classifier, projected onto the row space of its weights; None without one."""
    layers = linear_layers(model)
    name = next(reversed(layers), "")
    head = layers.get(name)
    if not isinstance(head, nn.Linear):
        return None
    basis = row_space(head.weight.detach())
    inputs = [call[0] for x, _ in batches for call in probe(model, {name: head}, x)[name]]
    return torch.cat(inputs).flatten(0, -2) @ basis @ basis.mT


def measured(values: Tensor) -> Figures:
    """VECA, EDM and the modes of one layer's activations [N, D]."""
    groups = min(GROUPS, values.shape[1])
    alive = values[:, values.std(0) > 0]
    separation = fit_modes(alive).separation if alive.shape[1] else torch.zeros(1)
    return {
        "units": values.shape[1],
        "constant_units": values.shape[1] - alive.shape[1],
        "veca": float(veca(values.double())),
        "edm": float(edm_loss(group_means(values.double(), groups))) if groups > 1 else None,
        "edm_groups": groups,
        "separation_median": float(separation.median()),
        "share_apart": float((separation > APART).double().mean()),
    }


def binary(finished: Finished, batches: Sequence[Batch], steps: int) -> list[Figures]:
    """Accuracy with each ReLU in turn binary, before and after the layers behind it are tuned (thesis, table 4.2)."""
    try:
        names = list(relus(finished.model))
    except ValueError as error:
        say(f"no binary activation: {error}")
        return []
    rows = []
    for name in names:
        stream = finished.data.batches(rank=0, world_size=1, seed=finished.run.seed)
        seen = list(islice(stream, max(2, min(steps, 2000 // finished.data.batch_size))))
        changed, parameters = binarized(finished.model, name, seen)
        row = {"layer": name, "accuracy_at_once": evaluate(changed, batches).accuracy}
        if parameters:
            tune(changed, parameters, islice(stream, steps))
        rows.append(row | {"accuracy": evaluate(changed, batches).accuracy, "tuned_steps": steps})
        stream.close()
    return rows


def information(
    finished: Finished, directory: RunDirectory, layers: Layers, batches: Sequence[Batch], steps: int
) -> InformationPlane:
    """The information plane at the first weights, at the checkpoints that are there, and at the end."""
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    model = copy.deepcopy(finished.model)
    own = {name: model.get_submodule(name) for name in layers}
    plane = InformationPlane(model, own, x, y, classes=finished.data.classes, steps=steps)
    for step, state in earlier_weights(finished, directory):
        model.load_state_dict(state)
        plane.measure(step)
    model.load_state_dict(finished.model.state_dict())
    plane.measure(finished.steps)
    return plane


def describe(found: Figures, folder: Path) -> str:
    """The figures for a person."""
    accuracy = f"{found['accuracy']:.2%}"
    lines = [f"{found['run']}: {found['steps']} steps, accuracy {accuracy} on {found['samples']} held-out samples"]
    if found["layers"]:
        lines += ["", f"{'layer':<34}{'units':>7}{'VECA':>11}{'EDM':>11}{'separation':>12}{'apart':>8}"]
        for name, row in found["layers"].items():
            edm = "-" if row["edm"] is None else f"{row['edm']:.3g}"
            lines.append(
                f"{name:<34}{row['units']:>7}{row['veca']:>11.3g}{edm:>11}{row['separation_median']:>12.2f}"
                f"{row['share_apart']:>8.0%}"
            )
        lines.append("separation: median over units of |m1 - m0| / rms of the two deviations; apart: units above 2")
    if found.get("binary"):
        lines += ["", f"{'binary in place of':<34}{'at once':>9}{'tuned':>9}   (ReLU: {found['accuracy']:.2%})"]
        lines += [
            f"{row['layer']:<34}{row['accuracy_at_once']:>9.2%}{row['accuracy']:>9.2%}" for row in found["binary"]
        ]
    if found.get("information"):
        lines += ["", f"{'step':>7}  {'layer':<34}{'I(X;T)':>9}{'I(T;Y)':>9}   nats, lower bounds"]
        lines += [
            f"{row['step']:>7}  {row['layer']:<34}{row['about_input']:>9.2f}{row['about_label']:>9.2f}"
            for row in found["information"]
        ]
    return "\n".join([*lines, "", f"written to {folder}", ""])
