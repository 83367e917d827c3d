"""A run that has ended, once more in memory: its configuration, data and model. Imports trainers' lower modules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from configs import load
from gossip.flat import Flat
from trainers import data as datasets
from trainers import regularization
from trainers.checkpoint_file import read
from trainers.data.base import Data
from trainers.local import initial_model
from trainers.run_directory import RunDirectory
from trainers.schema import Run


@dataclass
class Finished:
    """What a run left: `model` holds the consensus weights, `steps` of each worker are behind them."""

    run: Run
    data: Data
    model: nn.Module
    steps: int


def load_finished(directory: RunDirectory) -> Finished:
    """The consensus model of a run and the data that it was trained on.

    Raises:
        ValueError: it is no run directory, or the run has not come to its end, or its data or model cannot be built.
    """
    weights = directory.final / "model.safetensors"
    if not directory.resolved.is_file():
        raise ValueError(f"got {directory.path} without {directory.resolved.name}, expected a run directory")
    if not weights.is_file():
        raise ValueError(f"got {directory.path} without final/{weights.name}, expected a run that came to its end")
    run = load(directory.resolved, [], Run).config
    data = datasets.build(run.data)
    model = initial_model(run, data, torch.device("cpu"))
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, OSError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{weights}: does not hold the weights of this run's model: {said[:300]}") from error
    summary: dict[str, Any] = json.loads(directory.summary.read_text()) if directory.summary.is_file() else {}
    return Finished(run, data, model, int(summary.get("steps") or 0))


def earlier_weights(finished: Finished, directory: RunDirectory) -> list[tuple[int, dict[str, Tensor]]]:
    """(step, state of the model) before the end: the common first weights, and what checkpoints of one worker keep.

    Checkpoints that cannot be read, or are of another model, are left out.
    """
    run = finished.run
    first = initial_model(run, finished.data, torch.device("cpu"))
    found = {0: {name: tensor.clone() for name, tensor in first.state_dict().items()}}
    flat = Flat(regularization.travelling(run, first, regularization.build(run, first, finished.data)))
    folders = sorted(directory.checkpoints.glob("worker-*"), key=lambda path: path.name)
    for path in sorted(folders[0].glob("step-*.safetensors")) if folders else []:
        try:
            about, state = read(path)
        except ValueError:
            continue
        if about.fingerprint == flat.fingerprint and 0 < about.step < finished.steps:
            flat.vector.copy_(state["vector"])
            found[about.step] = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    return sorted(found.items(), key=lambda item: item[0])
