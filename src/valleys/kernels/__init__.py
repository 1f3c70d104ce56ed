"""The update of a list of tensors; one signature, several backends.

A backend gets lists of equal length, one entry per parameter, all of one device and one dtype, mutates them in place
and returns nothing. ``foreach`` is the only backend so far; the for-loop is the same code on lists of one tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Rule", "Tensors", "buckets", "use_foreach"]


class Tensors(NamedTuple):
    """What one call updates: lists of equal length.

    Args:
        params: parameters, any floating dtype (complex ones as real views).
        grads: their gradients, left as they are.
        explore: EMAs of the gradient (E's one buffer); None without E.
        exp_avgs, exp_avg_sqs: first and second moments, in the dtype of ``explore``.
        steps: steps made, this one included: 0-dimensional tensors on the CPU, or on the device with ``capturable``.
    """

    params: list[Tensor]
    grads: list[Tensor]
    explore: list[Tensor] | None
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    steps: list[Tensor]


class Rule(NamedTuple):
    """The options of one parameter group; see :class:`valleys.ALTO` for their meaning."""

    lr: float | Tensor
    alpha: float
    beta1: float
    beta2: float
    beta3: float
    eps: float
    weight_decay: float
    trust_eps: float
    norm_eps: float
    bias_correction: bool
    layer_adaptation: bool
    trust_clip: tuple[float, float] | None
    accelerate_momentum: bool
    accelerate_second_moment: bool
    maximize: bool
    capturable: bool


def use_foreach(foreach: bool | None, params: Iterable[Tensor]) -> bool:
    """torch.optim's default: foreach where every parameter is on an accelerator, else the for-loop."""
    if foreach is not None:
        return foreach
    return all(type(p) in (Tensor, torch.nn.Parameter) and p.device.type in ("cuda", "xpu") for p in params)


def buckets(tensors: Tensors, foreach: bool) -> Iterator[Tensors]:
    """Splits the lists so that each call sees one device, one dtype and one tensor type; singly for the for-loop."""
    keys = [
        (p.device, p.dtype, g.dtype, m.dtype, type(p) is torch.nn.Parameter or type(p)) if foreach else index
        for index, (p, g, m) in enumerate(zip(tensors.params, tensors.grads, tensors.exp_avgs, strict=True))
    ]
    for key in dict.fromkeys(keys):
        members = [index for index, other in enumerate(keys) if other == key]
        yield Tensors(*([column[i] for i in members] if column is not None else None for column in tensors))  # type: ignore[arg-type]
