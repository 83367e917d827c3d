"""Runs of the product itself, as a user starts them, and what they leave in their run directories. Imports trainers."""

from __future__ import annotations

import json
import math
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
_MEASURED = {"loss", "test_loss", "consensus_error"}

Settings = dict[str, Any]


def recipe(name: str) -> Settings:
    """The settings of a recipe, to be changed and given to `train`."""
    return load(name, [], Run).data


class Training:
    """`gosgd train` in a process of its own.

    Args:
        folder: becomes the run directory; beside it stand the configuration and what the command printed.
        resume: go on from what an earlier training left in the folder.
    """

    def __init__(self, settings: Settings, workers: int, folder: Path, resume: bool = False) -> None:
        self.folder = folder
        config, self._log = folder.with_name(f"{folder.name}.yaml"), folder.with_name(f"{folder.name}.log")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # JSON is YAML; the run options are the recipe's, and the folder is the one given here.
        config.write_text(json.dumps(settings | {"run": {**settings.get("run", {}), "dir": str(folder.resolve())}}))
        self._command = [sys.executable, "-m", "launch.cli", "train", str(config.resolve()), "--workers", str(workers)]
        self._command += ["--resume", "auto"] if resume else []
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Whether the command has come to its end."""
        return self._process.poll() is not None

    def summary(self) -> dict[str, Any]:
        """Wait for the end; returns what is in the run's summary.

        Raises:
            RuntimeError: the command failed; the end of what it printed is in the message.
        """
        if code := self._process.wait():
            said = "\n".join(self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
            raise RuntimeError(f"{' '.join(self._command)} ended with exit code {code}:\n{said}")
        return _numbers(json.loads(RunDirectory(self.folder).summary.read_text()))

    def stop(self) -> None:
        """End it, if it has not ended; it ends its own workers, which save."""
        if self.ended():
            return
        self._process.terminate()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def train(settings: Settings, workers: int, folder: Path) -> dict[str, Any]:
    """Run `gosgd train` to its end; returns what is in the run's summary. Arguments and errors as of `Training`."""
    training = Training(settings, workers, folder)
    try:
        return training.summary()
    finally:
        training.stop()


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
    return [_numbers(json.loads(line)) for line in path.read_text().splitlines()]


def _numbers(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures in which those of a run that diverged are no numbers, as in computing, where files have null."""
    return figures | {name: math.nan for name in _MEASURED & {*figures} if figures[name] is None}
