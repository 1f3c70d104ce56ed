"""The passes of ``foreach`` under ``torch.compile``, wherever inductor has a code generator.

One graph per pass serves tensors of every length: the length is symbolic, and every number that changes during training
is a tensor, so that nothing recompiles.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from valleys.kernels import Rule, Tensors, foreach, wide_dtype
from valleys.kernels.foreach import Coefficients, Piece, square_sum
from valleys.kernels.rounding import Noise, key, signed

__all__ = ["alto_", "explore_", "square_sum", "unavailable"]


def unavailable(device: torch.device, dtypes: Sequence[torch.dtype]) -> str | None:
    """Why this backend cannot update such tensors, or None if it can.

    Args:
        device: of all tensors.
        dtypes: of parameters, gradients and states.
    """
    try:
        with warnings.catch_warnings():
            # Inductor warns about itself when it is first imported.
            warnings.simplefilter("ignore")
            torch.compile(torch.neg, dynamic=True)(torch.ones(2, device=device))
    except Exception as error:  # whatever is missing, inductor's own words say it best
        return f"torch.compile does not work for {device.type}: {str(error).strip().splitlines()[0]}"
    return None


def alto_(tensors: Tensors, rule: Rule, clip: Tensor | None = None) -> None:
    """Alg. 2 of the paper, or LAMB where ``tensors.explore`` is None; see :func:`valleys.reference.alto`.

    Args:
        tensors: what to update.
        rule: the group's options.
        clip: 0-dimensional factor on all gradients, or None.
    """
    # torch.compile makes a graph of its own for a length of 1; not worth its time.
    short = [i for i, p in enumerate(tensors.params) if p.numel() == 1]
    if short:
        foreach.alto_(_take(tensors, short), rule, clip)
    tensors = _take(tensors, [i for i, p in enumerate(tensors.params) if p.numel() > 1])
    if not tensors.params:
        return
    device, dtype = tensors.params[0].device, wide_dtype(tensors.params[0].dtype)
    c = foreach.coefficients(tensors, rule, clip, range(len(tensors.params)))

    def number(name: str, value: Any) -> Tensor:
        return _number(name, value, device, dtype)

    common = c._replace(
        # Inductor sums millions of float32 squares with an error of a percent.
        measure=None if c.measure is None else torch.float64,
        clip=None if clip is None else clip.to(device, dtype),
        weight_decay=None if c.weight_decay is None else number("weight_decay", c.weight_decay),
        c=number("c", c.c),
        forget1=number("forget1", c.forget1),
        forget2=number("forget2", c.forget2),
        forget3=number("forget3", c.forget3),
    )
    roots, eps = (_vector(values, device, dtype) for values in (c.root, c.eps))
    work = []
    for i in range(len(tensors.params)):
        columns: list[Any] = [None if column is None else [_flat(column[i])] for column in tensors[:5]]
        noise = None
        if rule.stochastic_rounding and torch.bfloat16 in (tensors.params[i].dtype, tensors.exp_avgs[i].dtype):
            k = key(tensors.salts[i], tensors.steps[i], rule.capturable)
            pattern = torch.tensor(signed(k), dtype=torch.int32, device=device) if isinstance(k, int) else k
            noise = [Noise(pattern, 0)]
        work.append((Piece(*[*columns, noise]), common._replace(root=[roots[i]], eps=[eps[i]])))
    with _many_graphs():
        norms = [_compiled(_measure)(piece, c) for piece, c in work]
    joined = None if norms[0] is None else torch.cat([n for n in norms if n is not None], dim=1)
    lengths = foreach.step_lengths([joined], rule)
    lengths = torch.as_tensor(lengths, device=device, dtype=dtype).expand(len(work))
    factors = [length.data.view(1) for length in lengths.clone().unbind()]
    with _many_graphs():
        for (piece, c), factor in zip(work, factors, strict=True):
            _compiled(foreach.second_pass)(piece, c, factor)


def explore_(
    grads: list[Tensor],
    buffers: list[Tensor],
    outs: list[Tensor],
    *,
    alpha: float,
    beta: float,
    keys: list[int] | None = None,
) -> None:
    """E in one buffer; see :func:`valleys.kernels.foreach.explore_`."""
    device, dtype = grads[0].device, wide_dtype(grads[0].dtype)
    c = _number("c", alpha * (1 - beta), device, dtype)
    forget = _number("forget1", 1 - beta, device, dtype)
    patterns = [torch.tensor(signed(k), dtype=torch.int32, device=device) for k in keys or []]
    with _many_graphs():
        for i, columns in enumerate(zip(grads, buffers, outs, strict=True)):
            noise = [Noise(patterns[i], 0)] if patterns else None
            run = foreach.explore_piece if columns[0].numel() == 1 else _compiled(foreach.explore_piece)
            g, s, out = ([_flat(tensor)] for tensor in columns)
            run(g, s, out, c, forget, noise)


def _measure(piece: Piece, c: Coefficients) -> Tensor | None:
    """The first pass without its update, which inductor then never stores."""
    return foreach.first_pass(piece, c)[1]


def _flat(tensor: Tensor) -> Tensor:
    """One dimension, and no view: dynamo makes a graph for each shape of what a view is of."""
    return tensor.data.view(-1).data


def _many_graphs() -> Any:
    """Room for a graph per combination of dtypes and options; beyond dynamo's own limit of eight it would give up."""
    return torch._dynamo.config.patch(recompile_limit=64)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True, fullgraph=True)


@functools.lru_cache(maxsize=256)
def _number(name: str, value: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A constant on the device, sent once; one for each ``name``, as dynamo tells equal tensors from the same."""
    return torch.tensor(value, dtype=dtype, device=device)


def _vector(values: Sequence[float | Tensor], device: torch.device, dtype: torch.dtype) -> Sequence[Tensor]:
    tensors = [value for value in values if isinstance(value, Tensor)]
    return tensors if tensors else torch.tensor(values, dtype=dtype, device=device).unbind()


def _take(tensors: Tensors, indices: list[int]) -> Tensors:
    columns: list[Any] = [None if column is None else [column[i] for i in indices] for column in tensors]
    return Tensors(*columns)
