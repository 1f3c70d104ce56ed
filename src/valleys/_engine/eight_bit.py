"""States in 8 bits in an optimizer: which parameters have them, their tensors in ``optimizer.state``, their rows.

A state ``exp_avg`` is two tensors there, ``exp_avg_code`` of the parameter's shape and ``exp_avg_scale`` with a row for
each of its first dimension. The names are others than those of states in floating point, so that no checkpoint of one
kind is read as the other. Both are sharded as the parameter is: sharding its first dimension anew moves whole blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys._engine.block_memory import Part, Pattern, parts, patterns
from valleys._engine.dtensor import is_sharded, local
from valleys.kernels.quantization import BLOCK, Quantized, block_count, code_dtype

EIGHT_BIT = "8bit"
CODE, SCALE = "_code", "_scale"

# Smaller tensors and shorter rows stay in float32: little is won by them, or the scales are too many.
LEAST_SIZE, LEAST_LENGTH = 4096, 64


def is_quantized(param: Tensor, wanted: object, blocks: Any = None) -> bool:
    """Return True for a parameter whose states are in 8 bits where ``wanted``, the option ``state_dtype``, is "8bit".

    It has two dimensions or more, 4,096 elements or more, and 64 or more in a row of its first dimension; layers inside
    it (``blocks``) and shards of other dimensions than the first begin and end at multiples of 256 within the rows.
    """
    if wanted != EIGHT_BIT or param.dim() < 2:
        return False
    if is_sharded(param):
        mesh = param.device_mesh  # type: ignore[attr-defined]
        # Strided shards, of a mesh of two dimensions, are no subclass of Shard.
        placed = tuple((p.dim, mesh.size(i)) for i, p in enumerate(param.placements) if hasattr(p, "dim"))  # type: ignore[attr-defined]
    else:
        placed = ()
    return _is_quantized(tuple(param.shape), placed, patterns(blocks, param.shape))


@functools.lru_cache(maxsize=4096)
def _is_quantized(shape: tuple[int, ...], shards: tuple[tuple[int, int], ...], divisions: tuple[Pattern, ...]) -> bool:
    length = math.prod(shape[1:])
    if math.prod(shape) < LEAST_SIZE or length < LEAST_LENGTH:
        return False
    inner = [(dim, count) for dim, count in shards if dim > 0 and count > 1]
    if inner:
        # Along dimension 1 a shard of a row is one range of its elements, as long as the others if they divide it.
        count = math.prod(count for _, count in inner)
        fits = all(dim == 1 for dim, _ in inner) and shape[1] % count == 0 and length // count % BLOCK == 0
        return fits and not divisions
    if not divisions:
        return True
    segments = (
        segment
        for part in parts(divisions, shape, (0,) * len(shape), tuple(range(len(shape))))
        for segment in segments_of(part, length)
    )
    # Where all of a row's end at multiples, all begin there, too.
    return all(s.length % BLOCK == 0 or s.column + s.length == length for s in segments)


class Segment(NamedTuple):
    """A part of a layer in a matrix: from this row on ``rows`` of them, ``step`` apart, ``length`` elements in each."""

    row: int
    rows: int
    step: int
    column: int
    length: int


def segments_of(part: Part, length: int) -> Iterator[Segment]:
    """The segments of a layer's part, in a matrix with rows of ``length`` elements."""
    row, column = divmod(part.offset, length)
    if column + part.length <= length and (part.rows == 1 or part.stride % length == 0):
        yield Segment(row, part.rows, max(1, part.stride // length), column, part.length)
        return
    for number in range(part.rows):
        row, column = divmod(part.offset + number * part.stride, length)
        rows = max(1, part.length // length)
        yield Segment(row, rows, 1, column, part.length // rows)


def segment_views(segment: Segment, matrices: Sequence[Tensor | Quantized]) -> list[Any]:
    """The elements of a segment in matrices."""
    rows = slice(segment.row, segment.row + (segment.rows - 1) * segment.step + 1, segment.step)
    columns = slice(segment.column, segment.column + segment.length)
    blocks = slice(segment.column // BLOCK, segment.column // BLOCK + block_count(segment.length))
    return [
        replace(x, codes=x.codes[rows, columns], scales=x.scales[rows, blocks])
        if isinstance(x, Quantized)
        else x[rows, columns]
        for x in matrices
    ]


def matrix(tensor: Tensor) -> Tensor:
    """A contiguous tensor as the matrix of its first dimension's rows."""
    return tensor.view(tensor.shape[0], -1) if tensor.numel() else tensor.reshape(tensor.shape[0], 0)


def new_codes(param: Tensor, name: str) -> dict[str, Tensor]:
    """The two tensors of a state that is zero."""
    codes = torch.zeros_like(
        param,
        dtype=code_dtype(name),
        requires_grad=False,
        memory_format=torch.contiguous_format,
    )
    shard = local(param)
    blocks = block_count(math.prod(shard.shape[1:]))
    scales = torch.zeros(shard.shape[0], blocks, dtype=torch.float32, device=shard.device)
    return {name + CODE: codes, name + SCALE: scales_like(param, scales)}


def scales_like(param: Any, scales: Tensor) -> Tensor:
    """This rank's scales, sharded as the parameter is."""
    if not is_sharded(param):
        return scales
    from torch.distributed.tensor import DTensor

    shape = scales_shape(param)
    return DTensor.from_local(
        scales, param.device_mesh, param.placements, run_check=False, shape=shape, stride=(shape[1], 1)
    )


def scales_shape(param: Tensor) -> torch.Size:
    """The shape of a whole parameter's scales."""
    return torch.Size([param.shape[0], block_count(math.prod(param.shape[1:]))])


def is_stored(state: Any, name: str) -> bool:
    """Return True where a state is held in 8 bits."""
    return name + CODE in state and name + SCALE in state


def quantized(state: Any, name: str) -> Quantized:
    """This rank's part of a state as a matrix."""
    codes, scales = state[name + CODE], state[name + SCALE]
    if type(codes) is not Tensor:
        codes, scales = local(codes), local(scales)
    return Quantized(matrix(codes), scales, _role(name))


def _role(name: str) -> str:
    return "explore" if name.startswith("explore") else name


def convert(param: Tensor, state: MutableMapping[str, Any], names: Sequence[str], eight_bit: bool) -> None:
    """Bring the named states into 8 bits or out of them, where they are not in that form."""
    for name in names:
        if eight_bit and not is_stored(state, name) and isinstance(state.get(name), Tensor):
            old = local(state.pop(name))
            state.update(new_codes(param, name))
            quantized(state, name).store(matrix(old.float().contiguous()), None)
        elif not eight_bit and is_stored(state, name):
            state[name] = dequantized(state, name)
            del state[name + CODE], state[name + SCALE]


def dequantized(state: Any, name: str) -> Tensor:
    """A state's values as a float32 tensor of its parameter's shape, sharded as the codes are."""
    codes = state[name + CODE]
    values = quantized(state, name).dequantize().view(local(codes).shape)
    if not is_sharded(codes):
        return values
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        values, codes.device_mesh, codes.placements, run_check=False, shape=codes.shape, stride=codes.stride()
    )


def in_float32(entry: dict[str, Any]) -> dict[str, Any]:
    """The states of a parameter with those in 8 bits as float32 tensors."""
    names = [key.removesuffix(CODE) for key in entry if key.endswith(CODE) and key.removesuffix(CODE) + SCALE in entry]
    if not names:
        return entry
    others = {key: value for key, value in entry.items() if key.removesuffix(CODE).removesuffix(SCALE) not in names}
    return {**others, **{name: dequantized(entry, name) for name in names}}
