"""A small run schema of the tests' own: two registries, a few fields of every kind the loader speaks about."""

from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs import Config, Registry

MODELS: Registry[type] = Registry("model")
METHODS: Registry[type] = Registry("method", key="method")


class MlpConfig(Config):
    name: Literal["mlp"] = "mlp"
    width: int = Field(64, ge=1)
    mlp: float = 1.0  # an option may bear its component's name


class CnnConfig(Config):
    name: Literal["cnn"] = "cnn"
    channels: tuple[int, ...] = (8, 16)
    activation: Literal["relu", "maxmin"] = "relu"


class GossipConfig(Config):
    method: Literal["gosgd"] = "gosgd"
    rho: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def no_thirds(self) -> "GossipConfig":
        if self.rho == 0.333:
            raise ValueError("got rho 0.333,\n  expected another")
        return self


class NoneConfig(Config):
    method: Literal["none"] = "none"


MODELS.register(MlpConfig)(MlpConfig)
MODELS.register(CnnConfig)(CnnConfig)
METHODS.register(GossipConfig)(GossipConfig)
METHODS.register(NoneConfig)(NoneConfig)

ModelField: Any = MODELS.field()
MethodField: Any = METHODS.field()


class Precision(Enum):
    HALF = "half"
    FULL = "full"


class TrainConfig(Config):
    steps: int = Field(ge=0)
    lr: float = 0.1
    stop: Literal["each", "total"] = "each"
    compile: bool = False
    warmup: float | Literal["auto"] = "auto"
    milestones: list[int] = Field(default=[], max_length=3)
    precision: Precision = Precision.FULL
    note: str | None = None

    @field_validator("lr")
    @classmethod
    def not_seven(cls, lr: float) -> float:
        if lr == 7:
            raise ValueError("got 7, expected anything but 7")
        return lr


class Schema(Config):
    name: str = "run"
    model: ModelField
    exchange: MethodField = NoneConfig()
    extras: list[ModelField] = Field(default=[])
    evaluator: ModelField | None = None
    train: TrainConfig
    dir: Path | None = None
    labels: dict[str, int] = Field(default={})

    @model_validator(mode="after")
    def not_forbidden(self) -> "Schema":
        if self.name == "forbidden":
            raise ValueError("this name is forbidden")
        return self


GOOD = """\
model: {name: mlp, width: 3}
exchange:
  method: gosgd
  rho: 0.02
train:
  steps: 5
"""
