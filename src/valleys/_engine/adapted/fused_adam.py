"""E and Adam or AdamW in one pass over memory, where the user asked for ``fused=True``.

ALTO's update without the layer ratio is AdamW's, so its kernels serve; Adam's without weight decay is the same. The
state stays the base's own, made by the base.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from valleys._engine.adapted.explore_buffer import Memory, check_explore_group, new_memory
from valleys._engine.kernel_inputs import Row, buckets
from valleys._engine.state import BUFFER, step_tensor
from valleys._engine.tensor_checks import check_tensors
from valleys.kernels import Needs, Rule
from valleys.kernels.choice import best

_DTYPES = (torch.float32, torch.float64)


@torch.no_grad()
def step_jointly(optimizer: Any, memory: Memory) -> bool:
    """Make the whole step of an adapted Adam or AdamW, ``memory`` (E's states) included; False if one pass cannot."""
    if not _suits(optimizer):
        return False
    work = []
    for group in optimizer.param_groups:
        params = [param for param in group["params"] if param.grad is not None]
        if any(p.dtype not in _DTYPES or p.grad.dtype != p.dtype or p.grad.requires_grad for p in params):
            return False
        if any(p.grad.layout != torch.strided or best([p], Needs(p.dtype, p.dtype, p.dtype)) is None for p in params):
            return False
        check_explore_group(group)
        if params:
            work.append((group, params))
    # All checks before the first change.
    steps = [(group, _rows(optimizer, memory, group)) for group, _ in work]
    for (group, params), (_, rows) in zip(work, steps, strict=True):
        torch._foreach_add_([optimizer.state[param]["step"] for param in params], 1)
        _step_group(group, rows)
        torch.autograd.graph.increment_version(params)
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
        and "explore_state_dtype" not in group
        and not (group["amsgrad"] or group["differentiable"] or group["maximize"])
        and (group["weight_decay"] == 0 or group.get("decoupled_weight_decay", decoupled))
        and not any(isinstance(beta, Tensor) for beta in group["betas"])
        for group in optimizer.param_groups
    )


def _rows(optimizer: Any, memory: Memory, group: dict[str, Any]) -> list[Row]:
    """The group's parameters with their states, which are made or, where they lie in memory otherwise, rearranged."""
    optimizer._init_group(group, [], [], [], [], [], [])
    names = (BUFFER, "exp_avg", "exp_avg_sq")
    rows = []
    for index, param in enumerate(group["params"]):
        if param.grad is None:
            continue
        if memory.get(param, {}).get(BUFFER) is None:
            memory[param] = new_memory(param, group)
        own = optimizer.state[param]
        state = {**own, **memory[param]}
        ordinary = check_tensors(optimizer, group, index, state, names)
        state["step"] = own["step"] = step_tensor(own["step"], own["step"].device)
        rows.append(Row.of(param, state, names, param.dtype, salt=0, ordinary=ordinary))
        memory[param][BUFFER] = state[BUFFER]
        own.update(exp_avg=state["exp_avg"], exp_avg_sq=state["exp_avg_sq"])
    return rows


def _step_group(group: dict[str, Any], rows: list[Row]) -> None:
    beta2, beta3 = group["betas"]
    rule = Rule(
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
        capturable=rows[0].step.device.type != "cpu",
        stochastic_rounding=False,
    )
    for bucket in buckets(rows, rule, {"foreach": None, "fused": None}, explores=True):
        bucket.backend.alto_(bucket.tensors, bucket.rule)
    for row in rows:
        row.write_back()
