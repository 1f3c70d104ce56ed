"""E and Adam or AdamW in one pass over memory, where the user asked for ``fused=True``.

ALTO's update without the layer ratio is AdamW's, so its kernels serve; Adam's without weight decay is the same. The
state stays the base's own, made by the base.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys._engine.adapted.explore_buffer import Entry, Memory, buffer_of, check_explore_group, keys_of, new_memory
from valleys._engine.eight_bit import convert, matrix
from valleys._engine.kernel_inputs import Row, buckets
from valleys._engine.state import BUFFER, step_tensor
from valleys._engine.tensor_checks import check_tensors
from valleys.kernels import Needs, Rule, Tensors
from valleys.kernels.choice import best

_DTYPES = (torch.float32, torch.float64)
_MOMENTS = ("exp_avg", "exp_avg_sq")


class _Rounded(NamedTuple):
    """A parameter whose buffer is rounded: the kernels take it beside the others."""

    entry: Entry
    row: Row
    buffer: Any


class _Work(NamedTuple):
    """A group's parameters that have gradients."""

    group: dict[str, Any]
    params: list[Tensor]
    rows: list[Row]
    rounded: list[_Rounded]


@torch.no_grad()
def step_jointly(optimizer: Any, memory: Memory) -> bool:
    """Make the whole step of an adapted Adam or AdamW, ``memory`` (E's states) included; False if one pass cannot."""
    if not _suits(optimizer):
        return False
    works = []
    for group in optimizer.param_groups:
        params = [param for param in group["params"] if param.grad is not None]
        if any(p.dtype not in _DTYPES or p.grad.dtype != p.dtype or p.grad.requires_grad for p in params):
            return False
        if any(p.grad.layout != torch.strided or best([p], Needs(p.dtype, p.dtype, p.dtype)) is None for p in params):
            return False
        if "explore_state_dtype" in group and any(p.device.type != "cpu" for p in params):
            return False  # before anything is gathered: the other devices' kernels take no rounded buffer
        check_explore_group(group)
        works.append(_Work(group, params, [], []))
    # All checks before the first change.
    if not _gather(optimizer, memory, works):
        return False
    for work in works:
        if work.params:
            torch._foreach_add_([optimizer.state[param]["step"] for param in work.params], 1)
            _step_group(work, memory)
            torch.autograd.graph.increment_version(work.params)
    return True


def _suits(optimizer: Any) -> bool:
    if type(optimizer).adapted_from not in (torch.optim.Adam, torch.optim.AdamW) or optimizer._explore_inplace:
        return False
    if getattr(optimizer, "grad_scale", None) is not None or getattr(optimizer, "found_inf", None) is not None:
        return False
    decoupled = issubclass(type(optimizer).adapted_from, torch.optim.AdamW)
    return all(
        group["fused"]
        and group["explore_alpha"] != 0  # at 0 the base itself must step
        and not (group["amsgrad"] or group["differentiable"] or group["maximize"])
        and (group["weight_decay"] == 0 or group.get("decoupled_weight_decay", decoupled))
        and not any(isinstance(beta, Tensor) for beta in group["betas"])
        for group in optimizer.param_groups
    )


def _gather(optimizer: Any, memory: Memory, works: list[_Work]) -> bool:
    """Fill in the rows; False if a rounded buffer is not one that the kernels take."""
    numbers, fits = itertools.count(), {}
    for group, _, rows, rounded in works:
        optimizer._init_group(group, [], [], [], [], [], [])
        rounds = "explore_state_dtype" in group
        for index, param in enumerate(group["params"]):
            number = next(numbers)
            if param.grad is None:
                continue
            entry = Entry.of(param, group, number) if rounds else None
            if entry is None or (entry.dtype == param.dtype and not entry.rounds):
                rows.append(_row(optimizer, memory, group, index))
                continue
            kind = param.device, param.dtype, entry.dtype
            if kind not in fits:
                fits[kind] = _takes(entry)
            item = _rounded(optimizer, memory, entry, index) if fits[kind] else None
            if item is None:
                return False
            rounded.append(item)
    return True


def _takes(entry: Entry) -> bool:
    """Return True where kernels that hand a rounded buffer's gradients on are there for such a parameter."""
    dtype = entry.param.dtype
    needs = Needs(dtype, dtype, entry.dtype, random=entry.rounds), Needs(dtype, dtype, dtype, explores=False)
    return all(hasattr(best([entry.param], need), "explored_alto_") for need in needs)


def _row(optimizer: Any, memory: Memory, group: dict[str, Any], index: int) -> Row:
    """A parameter with its states, which are made or, where they lie in memory otherwise, rearranged."""
    param, names = group["params"][index], (BUFFER, *_MOMENTS)
    if param not in memory:
        memory[param] = new_memory(param, group)
    convert(param, memory[param], [BUFFER], False)  # the group's state_dtype may have changed
    own = optimizer.state[param]
    state = {**own, **memory[param]}
    ordinary = check_tensors(optimizer, group, index, state, names)
    state["step"] = own["step"] = step_tensor(own["step"], own["step"].device)
    row = Row.of(param, state, names, param.dtype, salt=0, ordinary=ordinary)
    memory[param][BUFFER] = state[BUFFER]
    own.update(exp_avg=state["exp_avg"], exp_avg_sq=state["exp_avg_sq"])
    return row


def _rounded(optimizer: Any, memory: Memory, entry: Entry, index: int) -> _Rounded | None:
    """A parameter with its moments and its buffer; None unless all are contiguous and of no class of their own."""
    param, own = entry.param, optimizer.state[entry.param]
    if param not in memory:
        memory[param] = new_memory(param, entry.group)
    if not check_tensors(optimizer, entry.group, index, {**own, **memory[param]}, (BUFFER, *_MOMENTS)):
        return None
    buffer = buffer_of(entry, memory)  # in the form it is to have
    if not param.is_contiguous() or (isinstance(buffer, Tensor) and not buffer.is_contiguous()):
        return None
    own["step"] = step_tensor(own["step"], own["step"].device)
    return _Rounded(entry, Row.of(param, own, _MOMENTS, param.dtype, salt=0, ordinary=True), buffer)


def _step_group(work: _Work, memory: Memory) -> None:
    rule = _rule(work.group)
    for bucket in buckets(work.rows, rule, {"foreach": None, "fused": None}, explores=True):
        bucket.backend.alto_(bucket.tensors, bucket.rule)
    for row in work.rows:
        row.write_back()
    alike: dict[Any, list[_Rounded]] = {}
    for item in work.rounded:
        alike.setdefault((item.entry.dtype, item.row.param.dtype, item.row.step.dtype), []).append(item)
    for items in alike.values():
        _step_rounded(items, rule, memory)


def _step_rounded(items: list[_Rounded], rule: Rule, memory: Memory) -> None:
    entries, rows, buffers = map(list, zip(*items, strict=True))
    columns = zip(*[(row.param, row.grad, *row.states, row.step) for row in rows], strict=True)
    params, grads, exp_avgs, exp_avg_sqs, steps = map(list, columns)
    if entries[0].dtype == torch.int8:
        grads = [matrix(grad) for grad in grads]
    numbers = [0] * len(rows)
    tensors = Tensors(params, grads, None, exp_avgs, exp_avg_sqs, steps, numbers, numbers)
    keys = keys_of(entries, memory) if entries[0].rounds else None
    dtype = params[0].dtype
    backend: Any = best(params[:1], Needs(dtype, dtype, dtype, explores=False))
    backend.explored_alto_(tensors, rule, buffers, keys)


def _rule(group: dict[str, Any]) -> Rule:
    beta2, beta3 = group["betas"]
    return Rule(
        lr=group["lr"],
        alpha=group["explore_alpha"],
        beta1=group["explore_beta"],
        beta2=beta2,
        beta3=beta3,
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        trust_eps=0.0,
        norm_eps=0.0,
        bias_correction=True,
        layer_adaptation=False,
        trust_clip=None,
        accelerate_momentum=True,
        accelerate_second_moment=True,
        maximize=False,
        # torch's fused kernels keep the count on the device.
        capturable=group["params"][0].device.type != "cpu",
        stochastic_rounding=False,
    )
