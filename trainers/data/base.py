"""What every data set has in common: options, the registry, and what a trainer sees of it, `Data` and `Batches`.

Imports configs and the leaf modules augment, sampling and sources.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypedDict
from weakref import WeakSet

import torch

from configs.base import Config, Field, Registry
from trainers.data.augment import Augment
from trainers.data.sampling import Sampling
from trainers.data.sources import Batch, Sets

DATA: Registry[Callable[[Any], Sets]] = Registry("data set")


class DataConfig(Config):
    """Options that every registered data set takes."""

    batch_size: int = Field(default=16, ge=1, description="samples a step of one worker")
    eval_batch_size: int = Field(default=1000, ge=1, description="samples a forward pass in evaluation")
    train_samples: int | None = Field(
        default=None,
        ge=1,
        description="train on the first N samples of a fixed stratified order; N is a subset of any larger N",
    )
    normalize: bool | Literal["symmetric"] = Field(
        default=True,
        description="mean 0 and variance 1 of each channel or feature over the training samples; symmetric: 8-bit"
        " images from -1 to 1",
    )
    loader_workers: int = Field(
        default=0, ge=0, description="processes that read samples for a worker; 0: the worker itself"
    )


class ImageConfig(DataConfig):
    """Options of a data set of images."""

    augment: Augment = Augment()


class FilesConfig(ImageConfig):
    """Options of a published data set of images that is read from files."""

    root: str = Field(
        default="data", min_length=1, description="folder with the files, or with a folder that holds them"
    )
    download: bool = Field(default=False, description="fetch missing files into root")


class Position(TypedDict):
    """Where a stream of batches stands: the next one is batch number `position` of epoch `epoch`."""

    epoch: int
    position: int
    steps_per_epoch: int | None


class Batches(ABC):
    """The endless stream of training batches of one worker: x float32 [B, *shape] and y int64 [B] on the device.

    Args:
        steps: batches in an epoch of this worker, None where the loader does not say.
    """

    def __init__(self, steps: int | None, batch_size: int) -> None:
        self.batch_size = batch_size
        self._steps = steps
        self._epoch = self._position = 0

    def __iter__(self) -> Batches:
        return self

    @abstractmethod
    def __next__(self) -> Batch: ...

    @abstractmethod
    def _seek(self, epoch: int, position: int) -> None:
        """Makes batch `position` of epoch `epoch` the next one."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch of this worker.

        Raises:
            ValueError: the user's loader has no length.
        """
        if self._steps is None:
            raise ValueError("the data loader has no length, so an epoch has none: give train.steps, not train.epochs")
        return self._steps

    def state_dict(self) -> Position:
        """Position of the next batch."""
        return {"epoch": self._epoch, "position": self._position, "steps_per_epoch": self._steps}

    def load_state_dict(self, state: Position) -> None:
        """Goes on exactly where the stream that gave `state` stood.

        Raises:
            ValueError: the saved stream had epochs of another length.
        """
        if state["steps_per_epoch"] != self._steps:
            raise ValueError(
                f"the saved data position counts epochs of {state['steps_per_epoch']} batches, these have"
                f" {self._steps}; resume with the same data set, batch size, sampling and number of workers"
            )
        self._seek(state["epoch"], state["position"])

    def close(self) -> None:  # noqa: B027 (most streams hold nothing)
        """Ends loader processes; further batches cannot be drawn."""


class Data(ABC):
    """A data set ready for training: a training half, a held-out half, and what a model must know of them.

    Args:
        shape: one sample as the model sees it, (C, H, W) after the crop or (F,).
        classes: classes are 0 ... classes - 1.
        train_size: training samples, None where a loader does not say.
        test_size: held-out samples, None where a loader does not say.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        train_size: int | None,
        test_size: int | None,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape, self.classes = shape, classes
        self.train_size, self.test_size = train_size, test_size
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._open: WeakSet[Batches] = WeakSet()

    def batches(
        self,
        *,
        rank: int,
        world_size: int,
        seed: int,
        incarnation: int = 0,
        sampling: Sampling = "independent",
    ) -> Batches:
        """The training stream of one worker.

        Args:
            rank: of the worker, 0 ... world_size - 1; more for one that joined the job later.
            incarnation: which life of the worker this is; a restarted worker draws other samples.
            sampling: `independent`, each worker from the whole set, or `sharded`, each epoch split among the workers.

        Raises:
            ValueError: an epoch of one worker is smaller than a batch.
        """
        made = self._batches(rank, world_size, seed, incarnation, sampling)
        self._open.add(made)
        return made

    @abstractmethod
    def _batches(self, rank: int, world_size: int, seed: int, incarnation: int, sampling: Sampling) -> Batches: ...

    @abstractmethod
    def test_batches(self) -> Iterable[Batch]:
        """The held-out half once, in a fixed order, without augmentation; the last batch may be short."""

    @abstractmethod
    def train_eval_batches(self) -> Iterable[Batch]:
        """The training half once, without augmentation; the last batch may be short."""

    def to(self, device: torch.device | str) -> Data:
        """Moves the data set; batches come out on `device`. Streams made before keep their device."""
        self.device = torch.device(device)
        return self

    def close(self) -> None:
        """Closes every stream made by `batches`."""
        for made in list(self._open):
            made.close()
