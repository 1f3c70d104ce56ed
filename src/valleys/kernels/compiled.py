"""The passes of ``foreach`` under ``torch.compile``, wherever inductor has a code generator.

One graph per pass serves tensors of every length: whole rows of 4096 elements, of which the number is symbolic. What is
left at the end of each tensor goes through ``foreach``. Every number that changes during training is a tensor, so that
nothing recompiles.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from valleys.kernels import Needs, Rule, Tensors, foreach, wide_dtype
from valleys.kernels.constants import constant
from valleys.kernels.foreach import Coefficients, Piece, is_skipped
from valleys.kernels.ratio import learning_rate, step_lengths, sum_dtype
from valleys.kernels.rounding import Noise, signed

square_sum = foreach.square_sum
# Also the length of the sums that inductor makes in float32, which over millions of elements are off by a percent.
_ROW = 4096


def unavailable(device: torch.device, needs: Needs) -> str | None:
    """Return the reason why this backend cannot update such tensors, or None if it can."""
    if needs.is_quantized or needs.corrects:
        return "states in 8 bits and corrections are not written for torch.compile"
    try:
        with warnings.catch_warnings():
            # Inductor warns about itself when it is first imported.
            warnings.simplefilter("ignore")
            torch.compile(torch.neg, dynamic=True)(torch.ones(2, device=device))
    except Exception as error:  # whatever is missing, inductor's own words say it best
        return f"torch.compile does not work for {device.type}: {str(error).strip().splitlines()[0]}"
    return None


def alto_(tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> None:
    """Alg. 2 of the paper; see :func:`valleys.kernels.foreach.alto_`."""
    if is_skipped(skip, rule):
        return
    if rule.layer_adaptation:
        apply_(tensors, rule, step_lengths(measure_(tensors, rule, clip, skip), rule), skip)
        return
    whole, end, of_ends = _split(tensors, rule, clip, skip)
    device, dtype = tensors.params[0].device, wide_dtype(tensors.params[0].dtype)
    lr = torch.as_tensor(learning_rate(rule), device=device, dtype=dtype).reshape(1)
    with _many_graphs():
        for _, piece, numbers in whole:
            _compiled(_both_passes)(piece, numbers, lr)
    if end is not None:
        foreach.second_pass(end, of_ends, lr, foreach.first_pass(end, of_ends))


def measure_(tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
    """The first half of ``alto_``; see :func:`valleys.kernels.foreach.measure_`."""
    device = tensors.params[0].device
    sums = torch.zeros(3, len(tensors.params), dtype=sum_dtype(device), device=device)
    if is_skipped(skip, rule):
        return sums
    whole, end, of_ends = _split(tensors, rule, clip, skip)
    with _many_graphs():
        for i, piece, numbers in whole:
            w, r, largest = (x.to(sums.dtype) for x in _compiled(_first_pass)(piece, numbers))
            sums[:, i] = torch.stack([w.square().sum(), r.square().sum(), largest.amax()])
    if end is not None:
        sums[:, _with_ends(tensors)] += foreach.measure(end, foreach.first_pass(end, of_ends))
    return sums


def apply_(tensors: Tensors, rule: Rule, factors: Tensor, skip: Tensor | None = None) -> None:
    """The second half of ``alto_``; see :func:`valleys.kernels.foreach.apply_`."""
    if is_skipped(skip, rule):
        return
    whole, end, of_ends = _split(tensors, rule, None, skip)
    factors = factors.to(wide_dtype(tensors.params[0].dtype))
    with _many_graphs():
        for i, piece, numbers in whole:
            _compiled(foreach.second_pass)(piece, numbers, factors[i].clone().view(1))
    if end is not None:
        foreach.second_pass(end, of_ends, factors[_with_ends(tensors)])


def explore_(
    grads: list[Tensor],
    buffers: list[Tensor],
    outs: list[Tensor],
    *,
    alpha: float,
    beta: float,
    keys: list[int] | list[Tensor] | None = None,
) -> None:
    """E in one buffer; see :func:`valleys.kernels.foreach.explore_`."""
    device, dtype = grads[0].device, wide_dtype(grads[0].dtype)
    c = constant(alpha * (1 - beta), dtype, device, "c")
    forget = constant(1 - beta, dtype, device, "forget1")
    patterns = [_pattern(k, 0, device) for k in keys or []]
    with _many_graphs():
        for i, columns in enumerate(zip(grads, buffers, outs, strict=True)):
            noise = [Noise(patterns[i], 0)] if patterns else None
            # torch.compile would make a graph of its own for a length of 1.
            run = foreach.explore_piece if columns[0].numel() == 1 else _compiled(foreach.explore_piece)
            g, s, out = ([_unviewed(tensor.data.view(-1))] for tensor in columns)
            run(g, s, out, c, forget, noise)


def _split(
    tensors: Tensors, rule: Rule, clip: Tensor | None, skip: Tensor | None
) -> tuple[list[tuple[int, Piece, Coefficients]], Piece | None, Coefficients]:
    """The whole rows of each tensor that has some, with its index and factors; and all ends together with theirs."""
    c = foreach.coefficients(tensors, rule, clip, skip, range(len(tensors.params)))
    compiled = _as_tensors(c, tensors.params[0].device, wide_dtype(tensors.params[0].dtype))
    whole = [
        (i, _piece(tensors, rule, [i], [0], _rows), compiled._replace(root=[compiled.root[i]], eps=[compiled.eps[i]]))
        for i, p in enumerate(tensors.params)
        if _whole(p)
    ]
    ends = _with_ends(tensors)
    of_ends = c._replace(root=[c.root[i] for i in ends], eps=[c.eps[i] for i in ends])
    starts = [_whole(tensors.params[i]) for i in ends]
    return whole, _piece(tensors, rule, ends, starts, _end) if ends else None, of_ends


def _with_ends(tensors: Tensors) -> list[int]:
    return [i for i, p in enumerate(tensors.params) if _whole(p) < p.numel()]


def _first_pass(piece: Piece, c: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
    """The first pass of one tensor; of each row the norms of theta and r and the largest |g|."""
    (update,) = foreach.first_pass(piece, c)
    params, grads = piece.params[0].to(update.dtype), piece.grads[0].to(update.dtype)
    return (
        torch.linalg.vector_norm(params, dim=1),
        torch.linalg.vector_norm(update, dim=1),
        grads.abs().amax(1),
    )


def _both_passes(piece: Piece, c: Coefficients, factor: Tensor) -> None:
    foreach.second_pass(piece, c, factor, foreach.first_pass(piece, c))


def _whole(tensor: Tensor) -> int:
    """Elements in whole rows; none where there is one row only, for which torch.compile would make another graph.

    Nor where the elements have gaps between them, which are left to ``foreach``.
    """
    rows = tensor.numel() // _ROW if tensor.is_contiguous() else 0
    return rows * _ROW if rows > 1 else 0


def _piece(
    tensors: Tensors, rule: Rule, indices: list[int], starts: list[int], cut: Callable[[Tensor, int], Tensor]
) -> Piece:
    """The rows or the ends of the tensors at ``indices``, which begin at the elements ``starts``."""
    positions = list(zip(indices, starts, strict=True))
    columns: list[Any] = [
        None if column is None else [cut(column[i], start) for i, start in positions] for column in tensors[:5]
    ]
    noise = None
    if rule.stochastic_rounding:
        device = tensors.params[0].device
        noise = [Noise(_pattern(tensors.keys[i], tensors.starts[i], device), start) for i, start in positions]
    return Piece(*[*columns, noise])


def _rows(tensor: Tensor, _: int) -> Tensor:
    return _unviewed(tensor.data.view(-1)[: _whole(tensor)].view(-1, _ROW))


def _end(tensor: Tensor, start: int) -> Tensor:
    return tensor.view(-1)[start:] if tensor.is_contiguous() else tensor


def _pattern(key: int | Tensor, start: int, device: torch.device) -> Tensor:
    """The key of a tensor's random bits, moved to its start."""
    if isinstance(key, Tensor):
        return (key + signed(start)).to(device)
    return torch.tensor(signed(key + start), dtype=torch.int32, device=device)


def _as_tensors(c: Coefficients, device: torch.device, dtype: torch.dtype) -> Coefficients:
    """Numbers as tensors, of which torch.compile does not build the values into its graph."""

    def numbers(values: Sequence[float | Tensor]) -> list[Tensor]:
        tensors = [value for value in values if isinstance(value, Tensor)]
        return tensors or [_unviewed(x) for x in torch.tensor(values, dtype=dtype, device=device).unbind()]

    # One for each name, as dynamo tells equal tensors from the same.
    single: dict[str, Any] = {
        name: constant(getattr(c, name), dtype, device, name)
        for name in ("c", "forget1", "forget2", "keep3", "forget3", "weight_decay")
        if getattr(c, name) is not None
    }
    clip = None if c.clip is None else c.clip.to(device, dtype)
    return c._replace(clip=clip, root=numbers(c.root), eps=numbers(c.eps), **single)


def _unviewed(tensor: Tensor) -> Tensor:
    """The same memory in a tensor that is no view: dynamo makes a graph for each shape of what a view is of."""
    return tensor.data


def _many_graphs() -> Any:
    """Room for a graph per combination of dtypes and options; beyond dynamo's own limit of eight it would give up."""
    return torch._dynamo.config.patch(recompile_limit=64)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True, fullgraph=True)
