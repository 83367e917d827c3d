"""What the forward and backward pass compute in, and how gradients are kept within its range. Imports torch only.

The weights, and so what is exchanged and optimised, stay float32 in each of them.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
_NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """One of `fp32`, `tf32` (products of float32 numbers rounded to 10 bits; as fp32 on a CPU), `bf16` and `fp16`.

    With fp16 the loss is scaled so that small gradients do not vanish, and a step whose gradients overflow is left out
    and the scale lowered (Micikevicius et al. 2018, section 3.2).

    Args:
        name: which.
        device: of the model.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        self._kind, self._narrow = device.type, _NARROW.get(name)
        self._scaler = GradScaler(device.type, enabled=name == "fp16")
        if device.type != "cpu":
            torch.set_float32_matmul_precision("highest" if name == "fp32" else "high")
            torch.backends.cudnn.allow_tf32 = name != "fp32"

    def forward(self) -> contextlib.AbstractContextManager[None]:
        """What the forward pass runs in."""
        return torch.autocast(self._kind, self._narrow) if self._narrow else contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled as need be."""
        torch.autograd.backward(self._scaler.scale(loss))

    def unscale(self, optimizer: Optimizer) -> None:
        """Gradients as they are, for whoever looks at them before the step."""
        if self._scaler.is_enabled():
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """The optimizer's step, unless a gradient has overflowed."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scale and its history; empty without one."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave in the same precision; otherwise begin anew."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)
