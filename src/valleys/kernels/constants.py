"""Small tensors that every step needs again: sent to their device once, where a CUDA graph finds them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["constant"]


def constant(values: float | tuple[int, ...], dtype: torch.dtype, device: torch.device, name: str = "") -> Tensor:
    """A tensor of these values, the same one each time; nobody may write to it.

    Args:
        values: a number or a tuple of numbers.
        dtype: of the tensor.
        device: of the tensor.
        name: tells tensors of equal values from each other, where that matters.
    """
    # A tensor made under FakeTensorMode or its like would outlive the mode, and one made before does not fit in.
    if not torch.compiler.is_compiling() and _get_current_dispatch_mode() is not None:
        return torch.tensor(values, dtype=dtype, device=device)
    return _kept(values, dtype, device, name)


@functools.lru_cache(maxsize=1024)
def _kept(values: float | tuple[int, ...], dtype: torch.dtype, device: torch.device, name: str) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
