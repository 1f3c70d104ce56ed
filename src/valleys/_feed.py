"""Adapted gradients in place of the user's, for the time of one step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys import reference
from valleys._gather import real
from valleys._state import state_dtype
from valleys.distributed import aligned, local, placements, random_place
from valleys.hyperparameters import check_explore
from valleys.kernels.choice import select
from valleys.kernels.layout import layout, ordered, put_back
from valleys.kernels.rounding import mix, salt

__all__ = ["adapted_gradients"]


class _Entry(NamedTuple):
    param: Tensor
    grad: Tensor
    alpha: float
    beta: float
    dtype: torch.dtype  # of the buffer
    key: int | None  # of the random bits that round it


@contextmanager
def adapted_gradients(optimizer: Any) -> Iterator[list[Tensor]]:
    """Sets every parameter's ``.grad`` to E's gradient; afterwards ``.grad`` is as it was, unless ``inplace``.

    Args:
        optimizer: an object of an adapted class.

    Yields:
        The parameters whose gradients were adapted; empty if E is off everywhere and nothing was changed.

    Raises:
        RuntimeError: a sparse gradient.
        ValueError: alpha or beta of a group was changed to something out of range.
    """
    entries = list(_entries(optimizer))
    buffers: dict[Tensor, Tensor] = optimizer._explore_buffers
    active = [entry for entry in entries if entry.alpha != 0 or entry.param in buffers]
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
            for bucket in _buckets(touched, buffers):
                _adapt_bucket(bucket, buffers, scale, found_inf, inplace, differentiable, graph)
        for group in optimizer.param_groups:
            if "explore_count" in group:
                group["explore_count"] += 1
        yield [entry.param for entry in active]
    finally:
        if not inplace:
            for entry in touched:
                entry.param.grad = entry.grad


def _entries(optimizer: Any) -> Iterator[_Entry]:
    numbers = itertools.count()
    for group in optimizer.param_groups:
        wanted = group.get("explore_state_dtype")
        alpha, beta = group["explore_alpha"], group["explore_beta"]
        check_explore(alpha, beta, alpha_name="explore_alpha", beta_name="explore_beta")
        for param, number in zip(group["params"], numbers, strict=False):
            if param.grad is None:
                continue
            if param.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{type(optimizer).__name__}: a parameter of shape {tuple(param.shape)} has a sparse gradient, "
                    "which E would make dense; build its layer with sparse=False, or leave it to an optimizer without E"
                )
            key = None
            if wanted == torch.bfloat16:
                key = mix(salt(group["explore_seed"], number) ^ group["explore_count"])
                shard = local(param)
                key, start = random_place(param, key, layout(shard) or range(shard.dim()))
                key = (key + start) % 2**32
            yield _Entry(param, param.grad, alpha, beta, state_dtype(param, wanted), key)


def _buckets(entries: list[_Entry], buffers: dict[Tensor, Tensor]) -> list[list[_Entry]]:
    """Entries that one multi-tensor call can take, in first-come order."""
    buckets: dict[Any, list[_Entry]] = {}
    for entry in entries:
        off = entry.alpha == 0 and entry.param not in buffers
        key = (
            off,
            entry.alpha,
            entry.beta,
            entry.grad.device,
            entry.grad.dtype,
            entry.param.dtype,
            type(entry.grad),
            entry.dtype,
        )
        buckets.setdefault(key, []).append(entry)
    return list(buckets.values())


def _adapt_bucket(
    bucket: list[_Entry],
    buffers: dict[Tensor, Tensor],
    scale: Tensor | None,
    found_inf: Tensor | None,
    inplace: bool,
    differentiable: bool,
    graph: bool,
) -> None:
    alpha, beta = bucket[0].alpha, bucket[0].beta
    grads = [aligned(entry.grad, entry.param) for entry in bucket]
    if scale is not None:
        grads = [grad / scale.to(grad.device) for grad in grads]
    if alpha == 0 and bucket[0].param not in buffers:
        adapted = grads
    else:
        for param, _, _, _, dtype, _ in bucket:
            if param not in buffers:
                buffers[param] = torch.zeros_like(param, dtype=dtype, requires_grad=False)
            elif buffers[param].dtype != dtype:  # a checkpoint, or the model, had another
                buffers[param] = buffers[param].to(dtype)
        old = [buffers[entry.param] for entry in bucket]
        if graph or differentiable:
            adapted, new = _differentiable(grads, old, alpha, beta)
            new = [buffer.detach() if graph else buffer for buffer in new]
        else:
            # A skipped step must not overwrite the buffer it started from.
            new = old if found_inf is None else [buffer.clone() for buffer in old]
            keys = [entry.key for entry in bucket if entry.key is not None] or None
            adapted = _explore(grads, new, alpha, beta, keys, inplace or scale is not None)
        if alpha == 0:
            adapted = grads
        if found_inf is not None:
            skip = found_inf.to(old[0].device).bool()
            new = [torch.where(skip, before, after) for before, after in zip(old, new, strict=True)]
        buffers.update(zip((entry.param for entry in bucket), new, strict=True))
    for entry, grad in zip(bucket, adapted, strict=True):
        if not inplace:
            entry.param.grad = grad.to(entry.grad.dtype)
        elif grad is not entry.grad and placements(grad) == placements(entry.grad):
            entry.grad.copy_(grad)
        else:
            entry.param.grad = grad


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
    grads: list[Tensor], buffers: list[Tensor], alpha: float, beta: float, keys: list[int] | None, overwrite: bool
) -> list[Tensor]:
    """One kernel call for all tensors; buffers, and with ``overwrite`` the gradients, are updated in place."""
    results = grads if overwrite else [torch.empty_like(grad) for grad in grads]
    columns = [[real(tensor) for tensor in column] for column in _shards(grads, buffers, results)]
    orders = [layout(grad) for grad in columns[0]]
    g, s, out = ([ordered(tensor, order) for tensor, order in zip(column, orders, strict=True)] for column in columns)
    if overwrite:
        out = g
    present = [i for i, grad in enumerate(g) if grad.numel()]
    g, s, out = ([column[i] for i in present] for column in (g, s, out))
    if present:
        select(g, (g[0].dtype, g[0].dtype, s[0].dtype), None, None).explore_(
            g, s, out, alpha=alpha, beta=beta, keys=None if keys is None else [keys[i] for i in present]
        )
    for i, memory, result in zip(present, s, out, strict=True):
        put_back(columns[1][i], orders[i], memory)
        put_back(columns[2][i], orders[i], result)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(results)
    return results


def _shards(*columns: list[Tensor]) -> tuple[list[Tensor], ...]:
    """What this rank holds of DTensors that are sharded alike: E is elementwise, and kernels need plain tensors."""
    rows = list(zip(*columns, strict=True))
    if any(len({placements(tensor) for tensor in row}) > 1 for row in rows):
        return columns
    return tuple([local(tensor) for tensor in column] for column in columns)
