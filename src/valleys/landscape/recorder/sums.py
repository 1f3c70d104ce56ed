"""Sums of squares and of products, tensor by tensor: pieces that a cache holds, added up in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

# Elements per piece and per multi-tensor call. A piece is summed in its own precision, which 2^16 elements do not hurt;
# an accelerator sums in a tree, and wants few launches.
_CPU_SIZES, _DEVICE_SIZES = (2**16, 2**18), (2**22, 2**23)


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which sums are added up: float64, wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor without history, dense, complex numbers as pairs of real ones; shares memory where it can."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def wide(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 in float32, all else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def square_sums(tensors: Sequence[Tensor], minus: Sequence[Tensor] | None = None) -> Tensor:
    """Return the square norm of each real tensor, or of each difference, as :func:`_reduced` does."""
    if minus is None:
        return _reduced(_squares, tensors)
    return _reduced(lambda x, y: _squares(torch._foreach_sub(x, y)), tensors, minus)


def products(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
    """Return the inner product of each x with its y, as :func:`_reduced` does."""

    def dots(x: list[Tensor], y: list[Tensor]) -> Tensor:
        return torch.stack([torch.dot(a, b.to(a.dtype)) for a, b in zip(x, y, strict=True)])

    return _reduced(dots, xs, ys)


def _reduced(function: Callable[..., Tensor], *columns: Sequence[Tensor]) -> Tensor:
    """Add up, tensor by tensor, the values that a function gives for pieces of each column's tensors.

    The sums are (number of tensors,), in float64 where the device has it, on the first tensor's device.
    """
    first = columns[0]
    home = first[0].device
    total = torch.zeros(len(first), dtype=sum_dtype(home), device=home)
    devices: dict[torch.device, list[int]] = {}
    for number, tensor in enumerate(first):
        devices.setdefault(tensor.device, []).append(number)
    for device, numbers in devices.items():
        # A model may have been moved since a tensor was kept.
        flat = [{i: column[i].to(device).reshape(-1) for i in numbers} for column in columns]
        owners: list[int] = []
        values: list[Tensor] = []
        for batch in _batches({i: first[i].numel() for i in numbers}, device):
            # A view for nothing would cost as much as a small sum.
            pieces = [
                [wide(tensors[i] if whole else tensors[i][start:stop]) for i, start, stop, whole in batch]
                for tensors in flat
            ]
            values.append(function(*pieces).to(home, total.dtype))
            owners += [i for i, _, _, _ in batch]
        if values:
            total.index_add_(0, _index(tuple(owners), home), torch.cat(values))
    return total


def _squares(pieces: Sequence[Tensor]) -> Tensor:
    norms = torch.stack(list(torch._foreach_norm(list(pieces))))
    return norms.to(sum_dtype(norms.device)).square()


def _batches(sizes: dict[int, int], device: torch.device) -> Iterator[list[tuple[int, int, int, bool]]]:
    """Yield pieces, as many as one call should take: (tensor's number, first element, end, whether it is whole)."""
    longest, most = _CPU_SIZES if device.type == "cpu" else _DEVICE_SIZES
    batch: list[tuple[int, int, int, bool]] = []
    elements = 0
    for number, size in sizes.items():
        for start in range(0, size, longest):
            stop = min(start + longest, size)
            if elements + stop - start > most:
                yield batch
                batch, elements = [], 0
            batch.append((number, start, stop, stop - start == size))
            elements += stop - start
    if batch:
        yield batch


@functools.lru_cache(maxsize=256)
def _index(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Sent once: sending it would wait for the device."""
    return torch.tensor(numbers, dtype=torch.int64, device=device)
