"""The update of a list of tensors; one signature, several backends.

A backend is a module with five functions. ``alto_`` makes a whole step where every tensor is a layer; ``measure_`` and
``apply_`` are its two halves, for layers that lie in several tensors or on several ranks: between them the sums of
squares are added up and become step lengths (see ``ratio``). ``explore_`` is E alone, ``square_sum`` serves clipping.

They get lists of equal length, one entry per tensor, all of one device and the same dtypes, and of the same shape
within an entry; they mutate in place. The tensors of an entry are contiguous (see ``layout``) or, for ``measure_`` and
``apply_``, two-dimensional with the same strides, the last of them 1: rows with gaps. ``select`` picks a backend and
says why not another.

``skip`` is None or a 0-dimensional tensor: where it is not zero, the call leaves every tensor as it is. It is read
where it lies, so that nothing waits for a GPU.

foreach    torch's multi-tensor operations, in bounded pieces: any device; on lists of one it is the for-loop
compiled   ``torch.compile`` over the same pieces
c          one pass in C, brought by a wheel or compiled when first used: CPU
triton     one pass in Triton, three launches for all tensors: CUDA
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Needs", "Rule", "Tensors", "wide_dtype"]


class Tensors(NamedTuple):
    """The tensors of one call, in lists of equal length.

    Args:
        params: parameters, any floating dtype (complex ones as real views).
        grads: their gradients, left as they are.
        explore: EMAs of the gradient (E's one buffer); None without E. All states are tensors or, in 8 bits,
            ``quantization.Quantized``; the parameters and gradients beside those are matrices with their rows.
        exp_avgs, exp_avg_sqs: first and second moments, in the dtype of ``explore``.
        steps: steps made, this one included: 0-dimensional tensors on the CPU, or on the device with ``capturable``;
            all float32 or all float64.
        keys: of each tensor's random bits, see ``rounding``: numbers in [0, 2^32), or 0-dimensional int32 patterns on
            the device. Read with ``stochastic_rounding`` alone.
        starts: where in its parameter's sequence of random bits a tensor's first element is: 0, unless it is a part.
        corrections: 8 bits more of bfloat16 parameters, int8; None without them.
    """

    params: list[Tensor]
    grads: list[Tensor]
    explore: list[Tensor] | None
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    steps: list[Tensor]
    keys: list[int] | list[Tensor]
    starts: list[int]
    corrections: list[Tensor] | None = None


class Needs(NamedTuple):
    """Requirements on a kernel.

    Args:
        param, grad, state: dtypes of parameters, gradients and states; complex ones as real views.
        random: whether bfloat16 values are rounded stochastically.
        explores: whether E's buffer is among the states.
        after_momentum: whether a enters the update instead of the moments.
        corrects: whether bfloat16 parameters have 8 bits more; see :func:`valleys.reference.split`.
    """

    param: torch.dtype
    grad: torch.dtype
    state: torch.dtype
    random: bool = False
    explores: bool = True
    after_momentum: bool = False
    corrects: bool = False

    @property
    def is_quantized(self) -> bool:
        """True where the states are in 8 bits, that is ``quantization.Quantized``, whose dtype is int8."""
        return self.state == torch.int8

    @property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
        """The dtypes of parameters, gradients and states."""
        return self.param, self.grad, self.state


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
    stochastic_rounding: bool
    after_momentum: bool = False

    @property
    def strengths(self) -> tuple[float, float]:
        """The factors c = alpha (1 - beta1) of g - s in the gradients for m and for v, 0 where E is left out."""
        c = self.alpha * (1 - self.beta1)
        return c if self.accelerate_momentum else 0.0, c if self.accelerate_second_moment else 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest trust ratio."""
        return self.trust_clip or (0.0, math.inf)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic: float64 for float64 parameters, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def summary(error: Exception) -> str:
    """An error's type and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
