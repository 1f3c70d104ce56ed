"""From a layer's sums of squares to the length of its step; the sums may come from several tensors or ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from valleys.kernels import Rule


def step_lengths(sums: Tensor, rule: Rule) -> Tensor:
    """Return every layer's learning rate times its ratio; see :func:`valleys.reference.trust_ratio`.

    The sums are three rows with a column per layer: the squares of theta, the squares of r, and something that is 0
    only where every element of the gradient is. The result has their dtype.
    """
    w, r, moving = sums[0].sqrt(), sums[1].sqrt(), sums[2] != 0
    phi = w + rule.norm_eps
    ratio = phi / (r + rule.trust_eps * phi)
    if rule.trust_clip is not None:
        ratio = ratio.clamp(*rule.trust_clip)
    ratio = torch.where((w == 0) | (r == 0), 1.0, ratio)
    lr = learning_rate(rule)
    lr = lr.to(sums.device) if isinstance(lr, Tensor) else lr
    return lr * torch.where(moving, ratio, ratio.clamp(max=1.0))


def learning_rate(rule: Rule) -> float | Tensor:
    """The learning rate; a CPU tensor's costs nothing to read, one on the device stays there."""
    lr = rule.lr
    if isinstance(lr, Tensor) and lr.device.type == "cpu" and not torch.compiler.is_compiling():
        return float(lr.item())
    return lr


def sum_dtype(device: torch.device) -> torch.dtype:
    """The dtype of sums of squares: float64, wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
