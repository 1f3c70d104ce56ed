"""Adapted gradients in place of the user's, for the time of one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys._state import state_dtype
from valleys.hyperparameters import check_explore
from valleys.kernels.foreach import explore_

__all__ = ["adapted_gradients"]


class _Entry(NamedTuple):
    param: Tensor
    grad: Tensor
    alpha: float
    beta: float


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
        yield [entry.param for entry in active]
    finally:
        if not inplace:
            for entry in touched:
                entry.param.grad = entry.grad


def _entries(optimizer: Any) -> Iterator[_Entry]:
    for group in optimizer.param_groups:
        alpha, beta = group["explore_alpha"], group["explore_beta"]
        check_explore(alpha, beta, alpha_name="explore_alpha", beta_name="explore_beta")
        for param in group["params"]:
            if param.grad is None:
                continue
            if param.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{type(optimizer).__name__}: a parameter of shape {tuple(param.shape)} has a sparse gradient, "
                    "which E would make dense; build its layer with sparse=False, or leave it to an optimizer without E"
                )
            yield _Entry(param, param.grad, alpha, beta)


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
    grads = [entry.grad for entry in bucket]
    if scale is not None:
        grads = [grad / scale.to(grad.device) for grad in grads]
    if alpha == 0 and bucket[0].param not in buffers:
        adapted = grads
    else:
        for param, *_ in bucket:
            if param not in buffers:
                buffers[param] = torch.zeros_like(param, dtype=state_dtype(param), requires_grad=False)
        old = [buffers[entry.param] for entry in bucket]
        # A skipped step and a differentiable one must not overwrite the buffer they started from.
        kept = found_inf is not None or differentiable or graph
        new = [buffer.clone() for buffer in old] if kept else old
        wide = [grad.to(buffer.dtype) for grad, buffer in zip(grads, new, strict=True)]
        adapted = explore_(wide, new, alpha=alpha, beta=beta, inplace=inplace)
        if alpha == 0:
            adapted = grads
        if graph:
            new = [buffer.detach() for buffer in new]
        if found_inf is not None:
            skip = found_inf.to(old[0].device).bool()
            new = [torch.where(skip, before, after) for before, after in zip(old, new, strict=True)]
        if kept:
            buffers.update(zip((entry.param for entry in bucket), new, strict=True))
    for entry, grad in zip(bucket, adapted, strict=True):
        if not inplace:
            entry.param.grad = grad.to(entry.grad.dtype)
        elif grad is not entry.grad:
            entry.grad.copy_(grad)
