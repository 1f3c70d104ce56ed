"""Lists of tensors cut so that few elements are worked on at a time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from valleys.kernels.layout import is_plain
from valleys.kernels.quantization import Quantized


def batches(columns: list[list[Tensor] | None], size: int) -> list[tuple[list[int], list[tuple[int, list[Any]]]]]:
    """Cut lists of tensors so that few elements are worked on at a time.

    Returns:
        Indices of small tensors that come together, or of one large tensor; and the slices, each with the index of its
        first element and, a column each, lists with one tensor per index.
    """
    sizes = [tensor.numel() for tensor in columns[0] or []]
    result: list[tuple[list[int], list[tuple[int, list[Any]]]]] = []
    first = 0
    while first < len(sizes):
        last, total = first + 1, sizes[first]
        while last < len(sizes) and total + sizes[last] <= size:
            total += sizes[last]
            last += 1
        # A subclass, a DTensor say, may not like to be cut.
        if total <= size or not all(_can_be_cut(column[first]) for column in columns if column is not None):
            whole = [None if column is None else column[first:last] for column in columns]
            result.append((list(range(first, last)), [(0, whole)]))
        else:
            # The blocks of states in 8 bits lie in rows.
            by_row = any(column is not None and isinstance(column[first], Quantized) for column in columns)
            tensors = [None if column is None else _rows(column[first], by_row) for column in columns]
            rows = len(tensors[0])  # type: ignore[arg-type]
            length = total // rows
            step = max(1, size // length)
            slices = [
                (row * length, [None if tensor is None else [tensor[row : row + step]] for tensor in tensors])
                for row in range(0, rows, step)
            ]
            result.append(([first], slices))
        first = last
    return result


def _can_be_cut(tensor: Tensor | Quantized) -> bool:
    return isinstance(tensor, Quantized) or is_plain(tensor)


def _rows(tensor: Any, by_row: bool) -> Any:
    """Return a view to be cut along its first dimension: all elements in a row, unless there are gaps between rows."""
    return tensor if by_row or not tensor.is_contiguous() else tensor.view(-1)
