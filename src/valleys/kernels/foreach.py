"""The update in torch's multi-tensor operations: no synchronisation, any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from valleys.kernels import Rule, Tensors

__all__ = ["alto_", "explore_"]


def explore_(
    grads: list[Tensor], buffers: list[Tensor], *, alpha: float, beta: float, inplace: bool = False
) -> list[Tensor]:
    """E in one buffer: returns g + c (g - s) with c = alpha (1 - beta); s becomes beta s + (1 - beta) g.

    Args:
        grads: gradients in the dtype of ``buffers``.
        buffers: s, updated in place.
        alpha: strength of E.
        beta: memory of E.
        inplace: write the result into ``grads``.

    Returns:
        The adapted gradients; ``grads`` themselves with ``inplace``.
    """
    c = alpha * (1 - beta)
    if inplace:
        torch._foreach_lerp_(grads, buffers, -c)
        # g is gone; g - s = (g~ - s) / (1 + c).
        torch._foreach_lerp_(buffers, grads, (1 - beta) / (1 + c))
        return grads
    adapted = torch._foreach_lerp(grads, buffers, -c)
    torch._foreach_lerp_(buffers, grads, 1 - beta)
    return list(adapted)


def alto_(tensors: Tensors, rule: Rule, clip: Tensor | None = None) -> None:
    """Alg. 2 of the paper, or LAMB where ``tensors.explore`` is None; see :func:`valleys.reference.alto`.

    Args:
        tensors: what to update.
        rule: the group's options.
        clip: 0-dimensional factor on all gradients, or None.
    """
    params, exp_avgs, exp_avg_sqs = tensors.params, tensors.exp_avgs, tensors.exp_avg_sqs
    dtype = exp_avgs[0].dtype
    # A parameter in lower precision than its state is updated through a wide copy, rounded once at the end.
    wide = params if params[0].dtype == dtype else [p.to(dtype) for p in params]
    moving = torch.stack(torch._foreach_norm(tensors.grads, dtype=dtype)) > 0 if rule.layer_adaptation else None
    grads = _prepared(tensors.grads, dtype, rule.maximize, clip)

    adapted = grads
    if tensors.explore is not None:
        adapted = explore_(grads, tensors.explore, alpha=rule.alpha, beta=rule.beta1)
    for_m = adapted if rule.accelerate_momentum else grads
    for_v = adapted if rule.accelerate_second_moment else grads
    torch._foreach_lerp_(exp_avgs, for_m, 1 - rule.beta2)
    torch._foreach_mul_(exp_avg_sqs, rule.beta3)
    torch._foreach_addcmul_(exp_avg_sqs, for_v, for_v, 1 - rule.beta3)
    del grads, adapted, for_m, for_v

    update = list(torch._foreach_sqrt(exp_avg_sqs))
    if rule.bias_correction:
        torch._foreach_div_(update, _corrections(tensors.steps, rule.beta3, dtype, rule.capturable, root=True))
    torch._foreach_add_(update, rule.eps)
    torch._foreach_reciprocal_(update)
    torch._foreach_mul_(update, exp_avgs)
    if rule.bias_correction:
        torch._foreach_div_(update, _corrections(tensors.steps, rule.beta2, dtype, rule.capturable))

    if rule.weight_decay != 0:
        torch._foreach_add_(update, wide, alpha=rule.weight_decay)
    # A CPU number costs nothing to read; one on the device stays there.
    lr = rule.lr.item() if isinstance(rule.lr, Tensor) and rule.lr.device.type == "cpu" else rule.lr
    if moving is None:
        torch._foreach_mul_(update, -lr)
    else:
        torch._foreach_mul_(update, list((-lr * _ratios(wide, update, moving, rule)).unbind()))
    torch._foreach_add_(wide, update)
    if wide is not params:
        torch._foreach_copy_(params, wide)


def _prepared(grads: list[Tensor], dtype: torch.dtype, maximize: bool, clip: Tensor | None) -> list[Tensor]:
    """The gradients in the state's dtype, clipped and turned for maximisation; the user's stay as they are."""
    grads = [g if g.dtype == dtype else g.to(dtype) for g in grads]
    if clip is not None:
        grads = list(torch._foreach_mul(grads, clip.to(dtype=dtype, device=grads[0].device)))
    if maximize:
        grads = list(torch._foreach_neg(grads))
    return grads


def _corrections(
    steps: list[Tensor], beta: float, dtype: torch.dtype, capturable: bool, root: bool = False
) -> list[float] | list[Tensor]:
    """1 - beta^k for each tensor's own k, or its square root; as numbers unless that would synchronise."""
    if capturable:
        # 1 - beta^k would cancel in float32 for beta near 1.
        log_beta = math.log(beta) if beta > 0 else -math.inf
        corrections = [-torch.expm1(k.to(dtype) * log_beta) for k in steps]
        return [x.sqrt() for x in corrections] if root else corrections
    numbers = [1 - beta ** k.item() for k in steps]
    return [x**0.5 for x in numbers] if root else numbers


def _ratios(wide: list[Tensor], update: list[Tensor], moving: Tensor, rule: Rule) -> Tensor:
    """Every layer's ratio; ``moving`` says whose gradient is not zero. See :func:`valleys.reference.trust_ratio`."""
    w, r = torch.stack(torch._foreach_norm(wide)), torch.stack(torch._foreach_norm(update))
    phi = w + rule.norm_eps
    ratio = phi / (r + rule.trust_eps * phi)
    if rule.trust_clip is not None:
        ratio = ratio.clamp(*rule.trust_clip)
    ratio = torch.where((w > 0) & (r > 0), ratio, 1.0)
    return torch.where(moving, ratio, ratio.clamp(max=1.0))
