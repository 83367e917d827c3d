"""Parameters and floating-point buffers of a model as views of one contiguous vector. Imports torch only.

One vector means one copy per push, one `lerp_` per merge and one all_reduce, whatever the number of layers. Integer
buffers (batch counters) and complex ones stay out: they are not averaged. Optimizer state never travels.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

_log = logging.getLogger("gosgd")
_ALIGNMENT = 64  # bytes; keeps every view on a cache line, so vectorised kernels see aligned data

_Home = tuple[dict[str, Tensor | None], str]


class Flat:
    """Moves a model's floating-point state into one vector [D] and keeps the model's tensors as views of it.

    Each tensor starts on a 64-byte boundary; the gaps are zero and stay zero under any averaging.

    Args:
        model: one module, or several that travel together; their parameters and floating buffers must share one dtype
            and one device.

    Attributes:
        vector: [D], no gradient.
        dimension: D, gaps included.
        weights: elements of the vector, gaps included, that are parameters; they come first, the buffers behind them.
        fingerprint: 63-bit hash of names, shapes, dtype and layout: equal on two workers iff their vectors can be
            averaged.

    Raises:
        ValueError: the model has no floating-point state, mixes dtypes or devices, or has complex parameters.
    """

    def __init__(self, model: nn.Module | Sequence[nn.Module]) -> None:
        if not isinstance(model, nn.Module):
            model = model[0] if len(model) == 1 else nn.ModuleList(model)
        collected = dict(_floating(model))
        # Parameters first: the buffers' scale, such as running variances, would drown any distance between weights.
        tensors = dict(sorted(collected.items(), key=lambda item: not isinstance(item[1][0], nn.Parameter)))
        if not tensors:
            raise ValueError(f"got {type(model).__name__} without floating-point parameters, expected at least one")
        for what, kinds in (
            ("dtype", {str(tensor.dtype): name for name, (tensor, _) in tensors.items()}),
            ("device", {str(tensor.device): name for name, (tensor, _) in tensors.items()}),
        ):
            if len(kinds) > 1:
                found = ", ".join(f"{kind} ({name})" for kind, name in kinds.items())
                raise ValueError(
                    f"got parameters or floating-point buffers of more than one {what}: {found}; expected one, convert"
                    " them first"
                )
        first = next(iter(tensors.values()))[0]
        align = _ALIGNMENT // first.element_size()
        starts, end = [], 0
        self.weights = 0
        for tensor, _ in tensors.values():
            starts.append(end)
            end += -(-tensor.numel() // align) * align
            if isinstance(tensor, nn.Parameter):
                self.weights = end
        self.dimension = end
        self.vector = torch.zeros(end, dtype=first.dtype, device=first.device)
        self._views: list[tuple[str, _Home, int]] = []
        with torch.no_grad():
            for start, (name, (tensor, homes)) in zip(starts, tensors.items(), strict=True):
                view = self.vector[start : start + tensor.numel()].as_strided(tensor.shape, _dense_strides(tensor))
                view.copy_(tensor)
                tensor.data = view
                self._views += [(name, home, view.data_ptr()) for home in homes]
        self._turn = 0
        described = repr([_description(name, tensor) for name, (tensor, _) in tensors.items()])
        self.fingerprint = int.from_bytes(hashlib.sha256(described.encode()).digest()[:8], "big") >> 1

    def check(self, everything: bool = False) -> None:
        """Notice that the model's tensors are no longer views of the vector.

        Costs well under a microsecond: the first and the last tensor are looked at, and one more in turn.

        Raises:
            ValueError: `.to()`, `load_state_dict(assign=True)` or a reassigned buffer broke the aliasing.
        """
        count = len(self._views)
        self._turn = (self._turn + 1) % count
        for name, (home, key), pointer in (
            self._views
            if everything
            else (
                self._views[0],
                self._views[self._turn],
                self._views[-1],
            )
        ):
            tensor = home[key]
            if tensor is None or tensor.data_ptr() != pointer:
                raise ValueError(
                    f"got {name!r} moved out of the exchanged vector, expected the tensor that the exchange was built"
                    " with; call .to(), .half() or load_state_dict(assign=True) before building the exchange"
                )


def _floating(model: nn.Module) -> Iterator[tuple[str, tuple[Tensor, list[_Home]]]]:
    """Each distinct floating tensor once, with every place in the module tree that refers to it."""
    found: dict[int, tuple[str, Tensor, list[_Home]]] = {}
    for prefix, module in model.named_modules():
        stores: tuple[dict[str, Tensor | None], ...] = (module._parameters, module._buffers)
        for store in stores:
            for key, tensor in store.items():
                name = f"{prefix}.{key}" if prefix else key
                if isinstance(tensor, nn.Parameter) and tensor.is_complex():
                    raise ValueError(
                        f"got complex parameter {name!r}, which would be trained and never exchanged, expected a real"
                        " one; keep it as torch.view_as_real gives it"
                    )
                if tensor is not None and tensor.is_complex() and key not in module._non_persistent_buffers_set:
                    _log.warning(
                        "complex buffer %r stays out of the exchange, every worker keeps its own; keep one that changes"
                        " in training as torch.view_as_real gives it, register a constant with persistent=False",
                        name,
                    )
                if tensor is None or not tensor.is_floating_point() or tensor.numel() == 0:
                    continue
                found.setdefault(id(tensor), (name, tensor, []))[2].append((store, key))
    yield from ((name, (tensor, homes)) for name, tensor, homes in found.values())


def _description(name: str, tensor: Tensor) -> tuple[object, ...]:
    """What two workers' tensors must have in common to be averaged element by element."""
    plain = (name, tuple(tensor.shape), str(tensor.dtype))
    return plain if tensor.is_contiguous() else (*plain, "channels_last")


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's own strides where they fill memory without gaps (channels_last), else contiguous ones."""
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    if tensor.is_contiguous() or channels_last:
        return tuple(tensor.stride())
    return tuple(torch.empty(tensor.shape, device="meta").stride())
