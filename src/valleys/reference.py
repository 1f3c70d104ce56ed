"""The mathematics in the paper's symbols: both forms of E, Algs. 1-5, LAMB. Slow, out of place, any dtype.

Everything else in the package is tested against these functions. They hold no state: what a step needs goes in, what
the next step needs comes out. ``theta``, ``g``, ``a``, ``m``, ``v``, ``s`` have the shape of one parameter ("layer").

Source: Zhao et al. 2025 (arXiv 2510.27153), Algs. 1-5; the one-buffer form is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = [
    "Moments",
    "OneBuffer",
    "TwoBuffer",
    "alto",
    "alto_vanilla",
    "any_optimizer",
    "clip",
    "corrected",
    "dequantize",
    "eadam",
    "esgd",
    "explore",
    "lamb",
    "phi",
    "quantize",
    "split",
    "trust_ratio",
    "zeros",
]

T = TypeVar("T")


class TwoBuffer(NamedTuple):
    """E's memory as the paper writes it: ``a`` = a_{k-1}, ``g`` = g_{k-1}; both start at zero."""

    a: Tensor
    g: Tensor


class OneBuffer(NamedTuple):
    """E's memory in one buffer: ``s`` = s_{k-1}, the EMA of the gradient; starts at zero."""

    s: Tensor


class Moments(NamedTuple):
    """First and second moment after ``k`` steps."""

    m: Tensor
    v: Tensor
    k: int


def zeros(theta: Tensor) -> Moments:
    """The moments before the first step."""
    return Moments(torch.zeros_like(theta), torch.zeros_like(theta), 0)


def explore(g: Tensor, memory: TwoBuffer | OneBuffer, alpha: float, b1: float) -> tuple[Tensor, TwoBuffer | OneBuffer]:
    r"""The gradient that E hands on, and E's next memory: in two buffers (the paper), or in one (ours).

    .. math::
        a_k &= b_1 a_{k-1} + (1-b_1)(g_k - g_{k-1}), & \tilde g_k &= g_k + \alpha a_k \\
        s_k &= b_1 s_{k-1} + (1-b_1) g_k, & \tilde g_k &= g_k + \alpha (1-b_1) (g_k - s_{k-1})

    The forms agree because a_k = s_k - s_{k-1}, as long as b1 does not change during the run; alpha may. Where b1 does,
    the paper's form carries a_{k-1} on by the factor b1_k, and ours by (1 - b1_k) b1_{k-1} / (1 - b1_{k-1}).
    """
    if isinstance(memory, TwoBuffer):
        a = b1 * memory.a + (1 - b1) * (g - memory.g)
        return g + alpha * a, TwoBuffer(a, g)
    c = alpha * (1 - b1)
    return g + c * (g - memory.s), OneBuffer(b1 * memory.s + (1 - b1) * g)


def phi(x: Tensor, eps3: float) -> Tensor:
    """Add eps3, which keeps a layer's norm away from zero."""
    return x + eps3


def trust_ratio(
    theta: Tensor,
    r: Tensor,
    g: Tensor,
    *,
    eps2: float,
    eps3: float,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """A layer's ratio: ``phi(|theta|) / (|r| + eps2 phi(|theta|))``, with two exceptions.

    It is 1 where theta or r is zero, and at most 1 where the gradient g is zero.

    The exceptions are departures from the paper. A zero theta or r has no length to adapt (LAMB's convention). A layer
    whose gradient is exactly zero, an unused expert say, is left with a dying momentum and its weight decay; the ratio
    would blow them up until the layer shrinks by lr per step.
    """
    w_norm, r_norm, g_norm = (torch.linalg.vector_norm(x) for x in (theta, r, g))
    w = phi(w_norm, eps3)
    ratio = w / (r_norm + eps2 * w)
    if clip is not None:
        ratio = ratio.clamp(*clip)
    ratio = torch.where((w_norm == 0) | (r_norm == 0), torch.ones_like(ratio), ratio)
    return torch.where(g_norm > 0, ratio, ratio.clamp(max=1.0))


def alto(
    theta: Tensor,
    g: Tensor,
    memory: TwoBuffer | OneBuffer | None,
    moments: Moments,
    *,
    lr: float | Tensor,
    alpha: float,
    b1: float,
    b2: float,
    b3: float,
    lam: float,
    eps1: float,
    eps2: float,
    eps3: float,
    bias_correction: bool = True,
    layer_adaptation: bool = True,
    in_m: bool = True,
    in_v: bool = True,
    after_m: bool = False,
    ratio_clip: tuple[float, float] | None = None,
) -> tuple[Tensor, TwoBuffer | OneBuffer | None, Moments]:
    """Alg. 2 (and, with ``memory`` None, LAMB): one step of one layer.

    m = b2 m + (1-b2) g~,  v = b3 v + (1-b3) g~^2,  mh = m / (1-b2^k),  vh = v / (1-b3^k),
    r = mh / (sqrt(vh) + eps1) + lam theta,  theta -= lr * trust_ratio * r.

    ``bias_correction``, ``layer_adaptation``, ``in_m`` and ``in_v`` are the switches of the paper's Table 7.

    With ``after_m`` both moments are of g, and a enters behind the momentum: r = (mh + alpha a) / (sqrt(vh) + eps1) +
    lam theta. The bias correction is m's alone: it undoes the start of m at zero, and a_1 = (1-b1) g is no smaller than
    later a's. So the first step is that of ``in_m`` without ``in_v``.
    """
    adapted = g
    if memory is not None:
        adapted, memory = explore(g, memory, alpha, b1)
    for_m, for_v = adapted if in_m and not after_m else g, adapted if in_v and not after_m else g
    k = moments.k + 1
    m = b2 * moments.m + (1 - b2) * for_m
    v = b3 * moments.v + (1 - b3) * for_v * for_v
    mh, vh = (m / (1 - b2**k), v / (1 - b3**k)) if bias_correction else (m, v)
    if after_m:
        mh = mh + (adapted - g)
    r = mh / (vh.sqrt() + eps1) + lam * theta
    ratio = trust_ratio(theta, r, g, eps2=eps2, eps3=eps3, clip=ratio_clip) if layer_adaptation else 1.0
    return theta - lr * ratio * r, memory, Moments(m, v, k)


def alto_vanilla(
    theta: Tensor,
    g: Tensor,
    memory: TwoBuffer | OneBuffer,
    moments: Moments,
    *,
    lr: float,
    alpha: float,
    b1: float,
    b2: float,
    b3: float,
    lam: float,
    eps1: float,
    eps2: float,
    eps3: float,
) -> tuple[Tensor, TwoBuffer | OneBuffer | None, Moments]:
    """Alg. 1: Alg. 2 without bias correction; the paper's theorems are stated for it."""
    symbols: Any = {
        "alpha": alpha,
        "b1": b1,
        "b2": b2,
        "b3": b3,
        "lam": lam,
        "eps1": eps1,
        "eps2": eps2,
        "eps3": eps3,
    }
    return alto(theta, g, memory, moments, lr=lr, bias_correction=False, **symbols)


def lamb(
    theta: Tensor,
    g: Tensor,
    moments: Moments,
    *,
    lr: float,
    b2: float,
    b3: float,
    lam: float,
    eps1: float,
    eps2: float,
    eps3: float,
) -> tuple[Tensor, Moments]:
    """LAMB: Alg. 2 at alpha = 0."""
    symbols: Any = {"b2": b2, "b3": b3, "lam": lam, "eps1": eps1, "eps2": eps2, "eps3": eps3}
    theta, _, moments = alto(theta, g, None, moments, lr=lr, alpha=0.0, b1=0.0, **symbols)
    return theta, moments


def esgd(
    theta: Tensor,
    g: Tensor,
    memory: TwoBuffer | OneBuffer,
    m: Tensor,
    *,
    lr: float,
    alpha: float,
    b1: float,
    b2: float,
) -> tuple[Tensor, TwoBuffer | OneBuffer, Tensor]:
    """Alg. 3: m = b2 m + (g + alpha a);  theta -= lr m."""
    adapted, memory = explore(g, memory, alpha, b1)
    m = b2 * m + adapted
    return theta - lr * m, memory, m


def eadam(
    theta: Tensor,
    g: Tensor,
    memory: TwoBuffer | OneBuffer,
    moments: Moments,
    *,
    lr: float,
    alpha: float,
    b1: float,
    b2: float,
    b3: float,
    eps: float,
) -> tuple[Tensor, TwoBuffer | OneBuffer, Moments]:
    """Alg. 4: Adam with g + alpha a in place of g, in both moments."""
    adapted, memory = explore(g, memory, alpha, b1)
    k = moments.k + 1
    m = b2 * moments.m + (1 - b2) * adapted
    v = b3 * moments.v + (1 - b3) * adapted * adapted
    mh, vh = m / (1 - b2**k), v / (1 - b3**k)
    return theta - lr * mh / (vh.sqrt() + eps), memory, Moments(m, v, k)


def any_optimizer(
    rule: Callable[[Tensor, Tensor, T], tuple[Tensor, T]],
    theta: Tensor,
    g: Tensor,
    memory: TwoBuffer | OneBuffer,
    state: T,
    *,
    alpha: float,
    b1: float,
) -> tuple[Tensor, TwoBuffer | OneBuffer, T]:
    """Alg. 5: ``rule(theta, gradient, state) -> (theta, state)``, any optimizer, fed g + alpha a."""
    adapted, memory = explore(g, memory, alpha, b1)
    theta, state = rule(theta, adapted, state)
    return theta, memory, state


def clip(gs: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    """A group's gradients times ``min(1, max_norm / (|g| + 1e-6))``, as ``torch.nn.utils.clip_grad_norm_`` has it."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gs]))
    return [g * (max_norm / (norm + 1e-6)).clamp(max=1.0) for g in gs]


def quantize(x: Tensor, symbol: str, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Codes of 8 bits and the scales of a float32 matrix whose rows are cut into blocks of 256 elements.

    .. math::
        y_i = x_i \cdot 127 / \max_j |x_j| \quad (s), \qquad
        y_i = \sqrt{|x_i|} \cdot n / \max_j \sqrt{|x_j|} \quad (m: n = 127,\ v: n = 255)

    over the j of i's block. The code is y rounded, with m's sign, and at least 1 for v: a v of 0 would let m move a
    parameter without bound. The roots give small elements the accuracy that m / sqrt(v) needs. With numbers u in
    (0, 1), one for each element, the code is random and x keeps its expectation: for s it is
    :math:`round(y_i + u_i - 1/2)`, for m and v :math:`\lfloor y_i \rfloor`, plus 1 with the probability
    :math:`(y_i^2 - \lfloor y_i \rfloor^2) / (2 \lfloor y_i \rfloor + 1)`. A block with a value that is not finite
    becomes NaN as a whole, and 0 where neither an x of s nor a root reaches 1e-30.

    Args:
        x: values, (rows, length), float32.
        symbol: s, m or v.
        u: as x; None rounds to nearest.

    Returns:
        The codes, (rows, length) int8 or uint8, and the scales, (rows, blocks).

    Source: ours.
    """
    codes = torch.empty(x.shape, dtype=torch.uint8 if symbol == "v" else torch.int8)
    scales = torch.zeros(x.shape[0], -(-x.shape[1] // 256))
    n = torch.tensor(255.0 if symbol == "v" else 127.0)
    for row in range(x.shape[0]):
        for block, values in enumerate(x[row].split(256)):
            place = slice(256 * block, 256 * block + len(values))
            # torch rounds the root of float32 on a CPU otherwise than processors do.
            size = values.abs() if symbol == "s" else values.abs().double().sqrt().float()
            most = size.max()
            if not most.isfinite():
                size, inverse, scales[row, block] = torch.zeros_like(size), torch.tensor(0.0), torch.nan
            elif most < 1e-30:
                inverse = torch.tensor(0.0)
            else:
                inverse, scales[row, block] = n / most, most / n
            y = size * inverse
            q = y.round()
            if u is not None and symbol == "s":
                y = torch.where(values < 0, -y, y)
                q = (y + (u[row, place] - 0.5)).round()
            elif u is not None:
                q = y.floor()
                q = torch.where((y - q) * (y + q) > u[row, place] * (q + q + 1), q + 1, q)
            if symbol == "v":
                q = q.clamp(min=1)
            elif u is None or symbol == "m":
                q = torch.where(values < 0, -q, q)
            codes[row, place] = q.to(codes.dtype)
    return codes, scales


def dequantize(q: Tensor, scales: Tensor, symbol: str) -> Tensor:
    """The float32 matrix that the codes ``q`` and the scales of :func:`quantize` stand for."""
    y = q.float() * scales.repeat_interleave(256, dim=1)[:, : q.shape[1]]
    return y if symbol == "s" else y * y.abs()


def split(x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round float32 to 24 bits, sign and exponent included: the nearest bfloat16 number, and 8 bits beside it.

    ``noise``, int32 in [0, 256), rounds to 24 bits with the probability of x's place; None to nearest. Half way between
    two bfloat16 numbers goes to the one of larger magnitude.

    Source: ours; the format is that of Kahan-style master weights in 16 and 8 bits.
    """
    pattern = x.view(torch.int32)
    magnitude, sign = pattern & 0x7FFFFFFF, (pattern < 0).int() << 15
    noise = 0x7F + (magnitude >> 8 & 1) if noise is None else noise
    bits = torch.where(x.isnan(), 0x7FC000, magnitude + noise >> 8)
    high = bits + 0x80 >> 8
    return (high | sign).to(torch.int16).view(torch.bfloat16), (bits - (high << 8)).to(torch.int8)


def corrected(high: Tensor, low: Tensor) -> Tensor:
    """The float32 number that :func:`split` made two parts of."""
    pattern = high.view(torch.int16).int()
    magnitude = ((pattern & 0x7FFF) << 8) + low.int() << 8
    return (magnitude | (pattern & 0x8000) << 16).view(torch.float32)
