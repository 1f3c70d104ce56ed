"""Where in memory the layers of a parameter are: as few rows of elements as can be, also in a shard."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Part", "Pattern", "parts"]


class Pattern(NamedTuple):
    """Along one dimension: layers of these sizes, over and over again until its end."""

    dim: int
    sizes: tuple[int, ...]


class Part(NamedTuple):
    """Elements of one layer in contiguous memory: ``rows`` rows of ``length``, ``stride`` apart.

    Args:
        layer: number of the layer in its parameter.
        offset: where in memory the first element is.
        rows, length, stride: as said; ``stride`` is ``length`` for a single row.
    """

    layer: int
    offset: int
    rows: int
    length: int
    stride: int


@functools.lru_cache(maxsize=4096)
def parts(
    found: tuple[Pattern, ...], shape: tuple[int, ...], first: tuple[int, ...], order: tuple[int, ...]
) -> tuple[Part, ...]:
    """Where in memory the layers of a parameter, or of one rank's shard of it, are.

    Args:
        found: the parameter's patterns.
        shape: of what lies in memory.
        first: index of its first element in the parameter, one number per dimension.
        order: its dimensions from the outermost in memory to the innermost.

    Returns:
        Parts by layer and then offset; those of a layer may be several, or none in this shard.
    """
    strides = dict.fromkeys(range(len(shape)), 1)
    for outer, inner in reversed(list(itertools.pairwise(order))):
        strides[outer] = strides[inner] * shape[inner]
    choices = [[_ranges(sizes, layer, first[dim], shape[dim]) for layer in range(len(sizes))] for dim, sizes in found]
    rest = [(shape[dim], strides[dim]) for dim in order if dim not in {pattern.dim for pattern in found}]
    result: list[Part] = []
    for number, chosen in enumerate(itertools.product(*choices)):
        pieces: list[Part] = []
        for ranges in itertools.product(*chosen):
            steps = [strides[pattern.dim] for pattern in found]
            offset = sum(begin * step for (begin, _, _, _), step in zip(ranges, steps, strict=True))
            axes = [
                axis
                for (_, length, rounds, period), step in zip(ranges, steps, strict=True)
                for axis in ((rounds, period * step), (length, step))
            ]
            pieces += _rows(number, offset, [*axes, *rest])
        result += sorted(pieces, key=lambda part: part.offset)
    return tuple(result)


def _ranges(sizes: tuple[int, ...], layer: int, first: int, size: int) -> list[tuple[int, int, int, int]]:
    """A layer's indices from ``first`` on, in ``size`` elements: (begin - first, length, rounds, period)."""
    period, begin = sum(sizes), sum(sizes[:layer])
    cut: list[tuple[int, int]] = []
    for start in range(first // period * period + begin, first + size, period):
        low, high = max(start, first), min(start + sizes[layer], first + size)
        if low < high:
            cut.append((low - first, high - low))
    # Whole rounds together; what a shard's ends cut off by itself.
    ranges: list[tuple[int, int, int, int]] = []
    for length, group in itertools.groupby(cut, key=lambda piece: piece[1]):
        members = list(group)
        if all(b[0] - a[0] == period for a, b in itertools.pairwise(members)):
            ranges.append((members[0][0], length, len(members), period))
        else:
            ranges += [(low, length, 1, period) for low, _ in members]
    return ranges


def _rows(layer: int, offset: int, axes: list[tuple[int, int]]) -> Iterator[Part]:
    """Parts with the elements that (size, stride) pairs span."""
    if any(size == 0 for size, _ in axes):
        return
    merged: list[tuple[int, int]] = []
    for size, stride in sorted((axis for axis in axes if axis[0] > 1), key=lambda axis: -axis[1]):
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    if not merged or merged[-1][1] != 1:
        merged.append((1, 1))
    *outer, (length, _) = merged
    rows, stride = outer.pop() if outer else (1, length)
    for indices in itertools.product(*(range(size) for size, _ in outer)):
        shift = sum(i * step for i, (_, step) in zip(indices, outer, strict=True))
        yield Part(layer, offset + shift, rows, length, stride)
