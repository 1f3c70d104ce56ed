"""Layers that share a parameter: the ``blocks`` option, and the memory of each layer, also in a shard."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

Block = tuple[str, int, int] | tuple[str, int, tuple[int, ...]]
"""A parameter that holds several layers: how it is divided, the dimension, and a count or the sizes; see
:func:`valleys.blocks.stacked`, :func:`valleys.blocks.sections`, :func:`valleys.blocks.interleaved`.
"""


class Pattern(NamedTuple):
    """Along one dimension: layers of these sizes, over and over again until its end."""

    dim: int
    sizes: tuple[int, ...]


class Part(NamedTuple):
    """Elements of one layer in contiguous memory: ``rows`` rows of ``length``, ``stride`` apart."""

    layer: int  # number in its parameter
    offset: int  # where in memory the first element is
    rows: int
    length: int
    stride: int  # ``length`` for a single row


def check_block(block: Any) -> Block:
    """Return a block option as plain tuples; raise ValueError if it is none."""
    is_block = (
        isinstance(block, (tuple, list)) and len(block) == 3 and block[0] in ("stacked", "sections", "interleaved")
    )
    if not is_block or type(block[1]) is not int:
        raise ValueError(
            f"blocks must be None or what valleys.blocks.stacked, sections or interleaved returns, got {block!r}"
        )
    kind, dim, value = block
    numbers = [value] if kind == "stacked" else list(value) if isinstance(value, (tuple, list)) else []
    if not numbers or any(type(n) is not int or n < 1 for n in numbers):
        name = "count" if kind == "stacked" else "sizes"
        raise ValueError(f"blocks: {name} of {kind} must be integers of at least 1, got {value!r}")
    return (kind, dim, value) if kind == "stacked" else (kind, dim, tuple(numbers))


def patterns(blocks: Any, shape: Sequence[int]) -> tuple[Pattern, ...]:
    """Return the patterns of a ``blocks`` option, one per divided dimension of a parameter of this (unsharded) shape.

    Raises:
        ValueError: no valid option, or one that does not fit the shape.
    """
    if blocks is None:
        return ()
    nested = isinstance(blocks, (tuple, list)) and blocks and all(isinstance(block, (tuple, list)) for block in blocks)
    result = tuple(_pattern(check_block(block), tuple(shape)) for block in (blocks if nested else (blocks,)))
    if len({pattern.dim for pattern in result}) < len(result):
        raise ValueError(f"blocks={blocks!r} divides a dimension twice; give every dimension one pattern")
    return result


def _pattern(block: Block, shape: tuple[int, ...]) -> Pattern:
    kind, dim, value = block
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"blocks={block!r}: a parameter of shape {shape} has no dimension {dim}")
    dim %= len(shape)
    size = shape[dim]
    sizes = (value,) if isinstance(value, int) else value
    total = sum(sizes)
    if size != total if kind == "sections" else size % total != 0:
        rule = "exactly" if kind == "sections" else "a multiple of"
        raise ValueError(f"blocks={block!r}: dimension {dim} of a parameter of shape {shape} must be {rule} {total}")
    return Pattern(dim, (size // value,) * value if isinstance(value, int) else sizes)


def layer_count(divisions: Sequence[Pattern]) -> int:
    """Return the number of layers that these patterns make of a parameter."""
    return math.prod(len(pattern.sizes) for pattern in divisions)


@functools.lru_cache(maxsize=4096)
def parts(
    divisions: tuple[Pattern, ...], shape: tuple[int, ...], first: tuple[int, ...], order: tuple[int, ...]
) -> tuple[Part, ...]:
    """Return the parts of memory that hold the layers of a parameter, or of one rank's shard of it.

    The shard has this shape, and its first element this index in the parameter; the order of the dimensions is that in
    memory, the outermost first.
    """
    strides = dict.fromkeys(range(len(shape)), 1)
    for outer, inner in reversed(list(itertools.pairwise(order))):
        strides[outer] = strides[inner] * shape[inner]
    choices = [
        [_ranges(sizes, layer, first[dim], shape[dim]) for layer in range(len(sizes))] for dim, sizes in divisions
    ]
    steps = [strides[pattern.dim] for pattern in divisions]
    rest = [(shape[dim], strides[dim]) for dim in order if dim not in {pattern.dim for pattern in divisions}]
    result: list[Part] = []
    for number, choice in enumerate(itertools.product(*choices)):
        layer_parts: list[Part] = []
        for ranges in itertools.product(*choice):
            offset = sum(begin * step for (begin, _, _, _), step in zip(ranges, steps, strict=True))
            axes = [
                axis
                for (_, length, rounds, period), step in zip(ranges, steps, strict=True)
                for axis in ((rounds, period * step), (length, step))
            ]
            layer_parts += _rows(number, offset, [*axes, *rest])
        result += sorted(layer_parts, key=lambda part: part.offset)
    return tuple(result)


def _ranges(sizes: tuple[int, ...], layer: int, first: int, size: int) -> list[tuple[int, int, int, int]]:
    """A layer's indices from ``first`` on, in ``size`` elements: (begin - first, length, rounds, period)."""
    period, begin = sum(sizes), sum(sizes[:layer])
    spans: list[tuple[int, int]] = []
    for start in range(first // period * period + begin, first + size, period):
        low, high = max(start, first), min(start + sizes[layer], first + size)
        if low < high:
            spans.append((low - first, high - low))
    # Whole rounds together; what a shard's ends cut off by itself.
    ranges: list[tuple[int, int, int, int]] = []
    for length, group in itertools.groupby(spans, key=lambda span: span[1]):
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
