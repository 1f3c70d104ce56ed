"""Adapted gradients in place of the user's, for the time of one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from valleys import reference
from valleys._engine.adapted.explore_buffer import Entry, Memory, buffer_of, entries_of, keys_of
from valleys._engine.dtensor import aligned, local, placements
from valleys._engine.eight_bit import matrix
from valleys._engine.kernel_inputs import real
from valleys._engine.state import BUFFER
from valleys.kernels import Needs
from valleys.kernels.choice import select
from valleys.kernels.layout import layout, materialized, ordered, put_back
from valleys.kernels.quantization import Quantized


@contextmanager
def adapted_gradients(optimizer: Any, memory: Memory) -> Iterator[list[Tensor]]:
    """Set every parameter's ``.grad`` to E's gradient; afterwards ``.grad`` is as it was, unless ``inplace``.

    ``memory``, E's states, is updated. Yields the parameters whose gradients were adapted; none if E is off everywhere
    and nothing was changed.
    """
    entries = list(entries_of(optimizer, memory))
    active = [entry for entry in entries if entry.alpha != 0 or entry.param in memory]
    if not active:
        yield []
        return
    scale = getattr(optimizer, "grad_scale", None)
    found_inf = getattr(optimizer, "found_inf", None)
    inplace = optimizer._explore_inplace
    differentiable = bool(optimizer.defaults.get("differentiable", False))
    # backward(create_graph=True): second-order optimizers differentiate ``.grad`` again.
    graph = any(entry.grad.requires_grad for entry in active) and not differentiable
    # A group with alpha = 0 beside an active one needs unscaling all the same.
    touched = entries if scale is not None else active
    try:
        with torch.set_grad_enabled(graph or (differentiable and torch.is_grad_enabled())):
            for bucket in _buckets(touched, memory):
                _adapt_bucket(bucket, memory, scale, found_inf, inplace, differentiable, graph)
        yield [entry.param for entry in active]
    finally:
        if not inplace:
            for entry in touched:
                entry.param.grad = entry.grad


def _buckets(entries: list[Entry], memory: Memory) -> list[list[Entry]]:
    """Entries that one multi-tensor call can take, in first-come order."""
    buckets: dict[Any, list[Entry]] = {}
    for entry in entries:
        off = entry.alpha == 0 and entry.param not in memory
        key = (
            off,
            entry.alpha,
            entry.beta,
            entry.grad.device,
            entry.grad.dtype,
            entry.param.dtype,
            type(entry.grad),
            entry.dtype,
            entry.rounds,
        )
        buckets.setdefault(key, []).append(entry)
    return list(buckets.values())


def _adapt_bucket(
    bucket: list[Entry],
    memory: Memory,
    scale: Tensor | None,
    found_inf: Tensor | None,
    inplace: bool,
    differentiable: bool,
    graph: bool,
) -> None:
    alpha, beta = bucket[0].alpha, bucket[0].beta
    grads = [materialized(aligned(entry.grad, entry.param)) for entry in bucket]
    if scale is not None:
        grads = [grad / scale.to(grad.device) for grad in grads]
    if alpha == 0 and bucket[0].param not in memory:
        adapted = grads
    else:
        old = [buffer_of(entry, memory) for entry in bucket]
        if graph or differentiable:
            _refuse_codes(bucket)
            adapted, new = _differentiable(grads, old, alpha, beta)
            new = [buffer.detach() if graph else buffer for buffer in new]
        else:
            # A skipped step must not overwrite the buffer it started from.
            new = old if found_inf is None else [buffer.clone() for buffer in old]
            bits = keys_of(bucket, memory) if bucket[0].rounds else None
            adapted = _explore(grads, new, alpha, beta, bits, inplace or scale is not None)
        if alpha == 0:
            adapted = grads
        if found_inf is not None:
            skip = found_inf.to(bucket[0].grad.device).bool()
            new = [_where(skip, before, after) for before, after in zip(old, new, strict=True)]
        for entry, before, buffer in zip(bucket, old, new, strict=True):
            if isinstance(buffer, Tensor):
                memory[entry.param][BUFFER] = buffer
            else:
                before.copy_(buffer)
    for entry, grad in zip(bucket, adapted, strict=True):
        if not inplace:
            entry.param.grad = grad.to(entry.grad.dtype)
        elif grad is not entry.grad and placements(grad) == placements(entry.grad) and not entry.grad._is_zerotensor():
            entry.grad.copy_(grad)
        else:
            entry.param.grad = grad


def _where(skip: Tensor, before: Any, after: Any) -> Any:
    if isinstance(before, Tensor):
        return torch.where(skip, before, after)
    codes, scales = (torch.where(skip, *pair) for pair in ((before.codes, after.codes), (before.scales, after.scales)))
    return replace(before, codes=codes, scales=scales)


def _refuse_codes(bucket: list[Entry]) -> None:
    if bucket[0].dtype == torch.int8:
        raise RuntimeError(
            "state_dtype='8bit' excludes differentiable=True and backward(create_graph=True): autograd cannot follow "
            "the rounding; leave state_dtype unset"
        )


def _differentiable(
    grads: list[Tensor], buffers: list[Tensor], alpha: float, beta: float
) -> tuple[list[Tensor], list[Tensor]]:
    """The reference itself: out of place, so that autograd can follow."""
    pairs = [
        reference.explore(grad.to(buffer.dtype), reference.OneBuffer(buffer), alpha, beta)
        for grad, buffer in zip(grads, buffers, strict=True)
    ]
    return [adapted for adapted, _ in pairs], [
        memory.s for _, memory in pairs if isinstance(memory, reference.OneBuffer)
    ]


def _explore(
    grads: list[Tensor],
    buffers: list[Tensor],
    alpha: float,
    beta: float,
    bits: list[int] | list[Tensor] | None,
    overwrite: bool,
) -> list[Tensor]:
    """One kernel call for all tensors; buffers, and with ``overwrite`` the gradients, are updated in place."""
    results = grads if overwrite else [torch.empty_like(grad) for grad in grads]
    columns: list[list[Any]]
    if isinstance(buffers[0], Quantized):
        columns = [[local(x) for x in grads], buffers, [local(x) for x in results]]
        orders: list[Any] = [tuple(range(grad.dim())) for grad in columns[0]]
        g, out = ([matrix(ordered(x, o)) for x, o in zip(columns[i], orders, strict=True)] for i in (0, 2))
        s = buffers
    else:
        columns = [[real(tensor) for tensor in column] for column in _shards(grads, buffers, results)]
        orders = [layout(grad) for grad in columns[0]]
        g, s, out = ([ordered(tensor, o) for tensor, o in zip(column, orders, strict=True)] for column in columns)
    if overwrite:
        out = g
    present = [i for i, grad in enumerate(g) if grad.numel()]
    g, s, out = ([column[i] for i in present] for column in (g, s, out))
    if present:
        needs = Needs(g[0].dtype, g[0].dtype, s[0].dtype, random=bits is not None)
        states = [x.codes if isinstance(x, Quantized) else x for x in s]
        select([*g, *states], needs, None, None).explore_(
            g,
            s,
            out,
            alpha=alpha,
            beta=beta,
            keys=None if bits is None else [bits[i] for i in present],  # type: ignore[arg-type]
        )
    for i, memory, result in zip(present, s, out, strict=True):
        if isinstance(memory, Tensor):
            put_back(columns[1][i], orders[i], memory)
        else:
            result = result.view_as(columns[2][i])
        put_back(columns[2][i], orders[i], result)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(results)
    return results


def _shards(*columns: list[Tensor]) -> tuple[list[Tensor], ...]:
    """Return this rank's parts of DTensors that are sharded alike: E is elementwise, and kernels need plain tensors."""
    rows = list(zip(*columns, strict=True))
    if any(len({placements(tensor) for tensor in row}) > 1 for row in rows):
        return columns
    return tuple([local(tensor) for tensor in column] for column in columns)
