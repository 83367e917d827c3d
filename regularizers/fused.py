"""Functions of activations compiled into one pass over them, where there is a compiler. Imports torch only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger("gosgd")
SMALL = 1 << 16
"""Elements below which the passes of the uncompiled function cost less than waiting for a compiler is worth."""


class Fused:
    """A function that runs compiled on large tensors and as it is on small ones, or where it cannot be compiled.

    Args:
        function: of tensors, the activations first; without side effects.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._plain = function
        self._compiled: Callable[..., Any] | None = None
        self._refused = False

    def __call__(self, activations: Tensor, *others: Any) -> Any:
        """The function's value, whichever way it is computed."""
        if self._refused or activations.numel() < SMALL or torch.compiler.is_compiling():
            return self._plain(activations, *others)
        if self._compiled is None:
            self._compiled = torch.compile(self._plain, dynamic=True, fullgraph=True)
        try:
            return self._compiled(activations, *others)
        except Exception as error:  # what a missing or broken compiler says differs from platform to platform
            self._refused = True
            _log.warning(
                "%s is not compiled and takes several passes over the activations: %s",
                self._plain.__name__,
                str(error).strip().partition("\n")[0],
            )
            return self._plain(activations, *others)
