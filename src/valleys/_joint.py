"""E and Adam or AdamW in one pass over memory, where the user asked for ``fused=True``.

ALTO's update without the layer ratio is AdamW's, so its kernels serve; Adam's without weight decay is the same. The
state stays the base's own, made by the base.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from valleys._gather import Row, buckets
from valleys.hyperparameters import check_explore
from valleys.kernels import Rule
from valleys.kernels.choice import best

__all__ = ["step_jointly"]

_DTYPES = (torch.float32, torch.float64)


@torch.no_grad()
def step_jointly(optimizer: Any) -> bool:
    """Makes the whole step of an adapted Adam or AdamW, if one pass can.

    Args:
        optimizer: an object of an adapted class, after its closure.

    Returns:
        Whether the step was made; if not, nothing was changed.
    """
    if not _suits(optimizer):
        return False
    work = []
    for group in optimizer.param_groups:
        params = [param for param in group["params"] if param.grad is not None]
        if any(p.dtype not in _DTYPES or p.grad.dtype != p.dtype or p.grad.requires_grad for p in params):
            return False
        if any(p.grad.layout != torch.strided or best([p], (p.dtype,) * 3) is None for p in params):
            return False
        check_explore(
            group["explore_alpha"], group["explore_beta"], alpha_name="explore_alpha", beta_name="explore_beta"
        )
        work.append((group, params))
    for group, params in work:
        if params:
            _step_group(optimizer, group, params)
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


def _step_group(optimizer: Any, group: dict[str, Any], params: list[Tensor]) -> None:
    optimizer._init_group(group, [], [], [], [], [], [])
    states, memory = optimizer.state, optimizer._explore_buffers
    for param in params:
        if param not in memory:
            memory[param] = torch.zeros_like(param, requires_grad=False)
    torch._foreach_add_([states[param]["step"] for param in params], 1)
    rows = []
    for param in params:
        state = {**states[param], "explore": memory[param]}
        rows.append(Row.of(param, state, ("explore", "exp_avg", "exp_avg_sq"), param.dtype, salt=0))
        # ``Row.of`` may have rearranged them.
        memory[param] = state.pop("explore")
        states[param].update(state)
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
        capturable=params[0].device.type != "cpu",
        stochastic_rounding=False,
    )
    for bucket in buckets(rows, {"foreach": None, "fused": None}, explores=True):
        bucket.backend.alto_(bucket.tensors, rule, None)
    for row in rows:
        row.write_back()
    torch.autograd.graph.increment_version(params)
