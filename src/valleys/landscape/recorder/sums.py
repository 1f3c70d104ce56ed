"""Sums of squares and of products, tensor by tensor: pieces that a cache holds, added up in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from valleys.kernels.ratio import sum_dtype

__all__ = ["plain", "products", "reduced", "square_sums", "wide"]

# Elements per piece and per multi-tensor call. A piece is summed in its own precision, which 2^16 elements do not hurt;
# an accelerator sums in a tree, and wants few launches.
_CPU_SIZES, _DEVICE_SIZES = (2**16, 2**18), (2**22, 2**23)

Pieces = list[Tensor]
Owners = list[int]


def plain(tensor: Tensor) -> Tensor:
    """Without history, dense, and a complex tensor as pairs of real numbers; shares memory where it can."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def wide(tensor: Tensor) -> Tensor:
    """In float32 where it is float16 or bfloat16, else itself."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def square_sums(tensors: Sequence[Tensor], minus: Sequence[Tensor] | None = None) -> Tensor:
    """The square norm of each tensor, or of each difference.

    Args:
        tensors: real, of any floating types and devices.
        minus: what to subtract first, of the same shapes.

    Returns:
        (number of tensors,) in float64 where the device has it, on the first tensor's device.
    """
    if minus is None:
        return reduced(lambda _, x: _squares(x), tensors)
    return reduced(lambda _, x, y: _squares(torch._foreach_sub(x, y)), tensors, minus)


def products(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
    """The inner product of each x with its y, in the form of :func:`square_sums`."""

    def dots(_: Owners, x: Pieces, y: Pieces) -> Tensor:
        return torch.stack([torch.dot(a, b.to(a.dtype)) for a, b in zip(x, y, strict=True)])

    return reduced(dots, xs, ys)


def reduced(function: Callable[..., Tensor], *columns: Sequence[Tensor]) -> Tensor:
    """Adds up, tensor by tensor, what a function makes of pieces of them.

    Args:
        function: of the pieces' tensors (by number) and a list of pieces from each column; one value per piece.
        columns: tensors, of the same shapes in each.

    Returns:
        (number of tensors,), as :func:`square_sums`.
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
            of = [i for i, _, _, _ in batch]
            # A view for nothing would cost as much as a small sum.
            pieces = [
                [wide(tensors[i] if whole else tensors[i][start:stop]) for i, start, stop, whole in batch]
                for tensors in flat
            ]
            values.append(function(of, *pieces).to(home, total.dtype))
            owners += of
        if values:
            total.index_add_(0, _index(tuple(owners), home), torch.cat(values))
    return total


def _squares(pieces: Sequence[Tensor]) -> Tensor:
    norms = torch.stack(list(torch._foreach_norm(list(pieces))))
    return norms.to(sum_dtype(norms.device)).square()


def _batches(sizes: dict[int, int], device: torch.device) -> Iterator[list[tuple[int, int, int, bool]]]:
    """Pieces, as many together as one call should take: (tensor's number, first element, end, whether it is whole)."""
    longest, most = _CPU_SIZES if device.type == "cpu" else _DEVICE_SIZES
    batch: list[tuple[int, int, int, bool]] = []
    held = 0
    for number, size in sizes.items():
        for start in range(0, size, longest):
            stop = min(start + longest, size)
            if held + stop - start > most:
                yield batch
                batch, held = [], 0
            batch.append((number, start, stop, stop - start == size))
            held += stop - start
    if batch:
        yield batch


@functools.lru_cache(maxsize=256)
def _index(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Sent once: sending it would wait for the device."""
    return torch.tensor(numbers, dtype=torch.int64, device=device)
