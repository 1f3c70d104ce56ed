"""Tensors of any strides as contiguous ones in one order of elements, which is all that a kernel needs."""

from __future__ import annotations

import torch
from torch import Tensor

Layout = tuple[int, ...] | None
"""The order in which a tensor's dimensions lie in memory, or None: no order makes it contiguous."""


def is_plain(tensor: Tensor) -> bool:
    """Return True for a tensor with memory that a kernel may write to, unlike DTensors and other wrappers."""
    # A class that intercepts operations sees them only if they go through torch's dispatcher.
    ordinary = type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
    return ordinary and tensor.layout == torch.strided


def is_readable(tensor: Tensor) -> bool:
    """Return True where the host can read a tensor's value at once: no device to wait for, and a value exists."""
    return tensor.device.type == "cpu" and is_plain(tensor) and not torch.compiler.is_compiling()


def is_lazy(tensor: Tensor) -> bool:
    """Return True where the memory does not hold the values: torch negates or conjugates on reading, or knows zeros."""
    if torch.compiler.is_compiling():
        return False  # what is traced are torch's operations, which see to it
    return tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor()


def materialized(tensor: Tensor) -> Tensor:
    """``tensor`` itself, or a copy whose memory holds the values; a kernel reads nothing else.

    Example:
        >>> import torch
        >>> x = torch.tensor([1 + 2j]).conj().imag
        >>> x.is_neg(), materialized(x).is_neg(), materialized(x)
        (True, False, tensor([-2.]))
    """
    if not is_lazy(tensor):
        return tensor
    return torch.zeros_like(tensor) if tensor._is_zerotensor() else tensor.resolve_conj().resolve_neg()


def addresses(tensors: list[Tensor]) -> list[int]:
    """The tensors' addresses in memory."""
    return [x.data_ptr() for x in tensors]


def extent(tensor: Tensor) -> tuple[int, int, int]:
    """The number of elements, how many of them are a row, and the gap behind each row; contiguous, all are one row."""
    size = tensor.numel()
    if tensor.is_contiguous():
        return size, size, 0
    return size, tensor.shape[1], tensor.stride(0) - tensor.shape[1]


def layout(tensor: Tensor) -> Layout:
    """The permutation of dimensions that makes ``tensor`` contiguous; None if there is none (gaps between elements).

    Example:
        >>> import torch
        >>> layout(torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last))
        (0, 2, 3, 1)
        >>> layout(torch.empty(4, 6)[:, ::2]) is None
        True
    """
    if tensor.is_contiguous():
        return tuple(range(tensor.dim()))
    strides = tensor.stride()
    # A dimension of size 1 may have any stride; outermost it is out of the way.
    order = tuple(sorted(range(tensor.dim()), key=lambda d: (tensor.shape[d] > 1, -strides[d])))
    return order if tensor.permute(order).is_contiguous() else None


def ordered(tensor: Tensor, order: Layout) -> Tensor:
    """``tensor`` with its dimensions in ``order``, contiguous: a view if it lies so in memory, else a copy."""
    view = tensor if order is None or order == tuple(range(tensor.dim())) else tensor.permute(order)
    # A wrapper's ``contiguous`` may copy what is contiguous already.
    return view if view.is_contiguous() else view.contiguous()


def put_back(target: Tensor, order: Layout, value: Tensor) -> None:
    """Write ``value``, once ``ordered(target, order)``, into ``target``, unless it was a view of it."""
    view = target if order is None else target.permute(order)
    if not view.is_contiguous():
        view.copy_(value)
