"""Small tensors that every step needs again: sent to their device once, where a CUDA graph finds them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


def constant(values: float | tuple[int, ...], dtype: torch.dtype, device: torch.device, name: str = "") -> Tensor:
    """Return the tensor of these values, the same one each time for each ``name``; nobody may write to it."""
    # A tensor made under FakeTensorMode or its like would outlive the mode, and one made before does not fit in.
    if not torch.compiler.is_compiling() and _get_current_dispatch_mode() is not None:
        return torch.tensor(values, dtype=dtype, device=device)
    return _cached(values, dtype, device, name)


@functools.lru_cache(maxsize=1024)
def _cached(values: float | tuple[int, ...], dtype: torch.dtype, device: torch.device, name: str) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
