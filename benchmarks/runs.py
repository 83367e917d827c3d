"""Runs of the product itself, as a user starts them, and what they leave in their run directories. Imports trainers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from configs import load
from trainers import data as datasets
from trainers import models
from trainers.evaluation import Score, evaluate
from trainers.run_directory import RunDirectory
from trainers.schema import Run

ROOT = Path(__file__).parent.parent
_GRACE_S = 10.0
_LAST_LINES = 15

Settings = dict[str, Any]


def recipe(name: str) -> Settings:
    """The settings of a recipe, to be changed and given to `train`."""
    return load(name, [], Run).data


def train(settings: Settings, workers: int, folder: Path) -> dict[str, Any]:
    """Run `gosgd train` to its end; returns what is in the run's summary.

    Args:
        folder: becomes the run directory; beside it stand the configuration and what the command printed.

    Raises:
        RuntimeError: the command failed; the end of what it printed is in the message.
    """
    config, log = folder.with_suffix(".yaml"), folder.with_suffix(".log")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # JSON is YAML; the run options are the recipe's, and the folder is the one given here.
    config.write_text(json.dumps(settings | {"run": {**settings.get("run", {}), "dir": str(folder.resolve())}}))
    command = [sys.executable, "-m", "launch.cli", "train", str(config.resolve()), "--workers", str(workers)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:  # an interrupt: the command ends its own workers
                process.terminate()
                try:
                    process.wait(_GRACE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    if code:
        said = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
        raise RuntimeError(f"{' '.join(command)} ended with exit code {code}:\n{said}")
    summary: dict[str, Any] = json.loads(RunDirectory(folder).summary.read_text())
    return summary


def score(folder: Path, half: Literal["training", "held out"], *overrides: str) -> Score:
    """Loss and accuracy of a run's consensus model on the whole of one half of its data, without augmentation.

    Args:
        overrides: `key=value` laid over the run's configuration, to score on other data.
    """
    directory = RunDirectory(folder)
    run = load(directory.resolved, overrides, Run).config
    data = datasets.build(run.data)
    model = models.build(run.model, data.shape, data.classes)
    model.load_state_dict(load_file(directory.final / "model.safetensors"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return evaluate(model, data.train_eval_batches() if half == "training" else data.test_batches())
    finally:
        torch.set_num_threads(threads)
        data.close()


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
