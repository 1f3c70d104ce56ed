r"""Stochastic rounding to bfloat16, from random bits that are a function of seed, step and position.

A value between two bfloat16 numbers goes up with the probability of its place between them, so that the expectation is
exact and a small update moves a large parameter as often as it should; rounding to nearest would drop it every time.

The bits come from a hash and not from a generator's state: backends, replicas and a resumed run get the same ones
without sharing anything. For element i (in memory order) of a tensor with ``salt`` at step k, in 32-bit arithmetic,

.. math::
    h_0 = mix(i + mix(salt \oplus k)), \qquad h_1 = mix(h_0 + \text{0x9E3779B9}),

parameter and E's buffer take the low and high half of h_0, the moments those of h_1.

Source: the mixer is C. Wellons' lowbias32 (hash-prospector, public domain); the scheme is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from valleys.kernels.constants import constant
from valleys.kernels.layout import is_readable

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def mix(x: int) -> int:
    """A bijection of 32-bit numbers whose every output bit depends on every input bit.

    Example:
        >>> mix(0), mix(1)
        (0, 1753845952)
    """
    x &= _MASK
    x = ((x ^ x >> 16) * 0x7FEB352D) & _MASK
    x = ((x ^ x >> 15) * 0x846CA68B) & _MASK
    return x ^ x >> 16


@functools.lru_cache(maxsize=1 << 16)  # once for each tensor, not at each step
def salt(seed: int, index: int) -> int:
    """The salt of an optimizer's ``index``-th tensor."""
    return mix(mix(seed) + _GOLDEN * (index + 1))


class Noise(NamedTuple):
    """Position of a tensor's elements in the sequence of random bits."""

    key: int | Tensor  # mix(salt ^ k): a number, or a 0-dimensional int32 pattern on the tensor's device
    start: int  # index of the first element


def keys(salts: Sequence[int], counts: Sequence[Tensor]) -> list[int] | list[Tensor]:
    """Keys of the random bits of each tensor's next step, mix(salt ^ k) with k one more than its count of steps.

    The ``counts`` are 0-dimensional int64, all of one device, and not ``step``: a float32 stops counting at 2^24, and
    the bits would repeat from there on. The keys are numbers or, where reading a count would make the host wait, int32
    patterns beside the counts.
    """
    if all(is_readable(count) for count in counts):
        return [mix(salt ^ int(count.item()) + 1) for salt, count in zip(salts, counts, strict=True)]
    steps = (torch.stack(list(counts)) + 1).to(torch.int32)
    patterns = constant(tuple(signed(salt) for salt in salts), torch.int32, steps.device)
    return list(mix_tensor(steps ^ patterns).unbind())


def bits(noise: Noise, role: str, like: Tensor) -> Tensor:
    """The 16 random bits of each element of ``like``, as int32; ``role`` is param, explore, exp_avg or exp_avg_sq."""
    first = signed(noise.key + noise.start) if isinstance(noise.key, int) else noise.key + signed(noise.start)
    pattern = mix_tensor(torch.arange(like.numel(), dtype=torch.int32, device=like.device) + first)
    if role in ("exp_avg", "exp_avg_sq"):
        pattern = mix_tensor(pattern + signed(_GOLDEN))
    if role in ("explore", "exp_avg_sq"):
        pattern = pattern >> 16
    return (pattern & 0xFFFF).view(like.shape)


def mix_tensor(x: Tensor) -> Tensor:
    """``mix`` of int32 patterns; int32 products wrap."""
    x = x ^ (x >> 16 & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15 & 0x1FFFF)
    x = x * signed(0x846CA68B)
    return x ^ (x >> 16 & 0xFFFF)


def round_to_bfloat16(x: Tensor, noise: Tensor) -> Tensor:
    """Round float32 up with the probability of x's place between its neighbours; infinities and NaN stay what they are.

    The noise is int32, uniform in [0, 2^16).

    Example:
        >>> x = torch.full((4,), 1 + 2**-9)  # a quarter of the way from 1 to the next bfloat16 number
        >>> round_to_bfloat16(x, torch.tensor([0, 20000, 49152, 65535], dtype=torch.int32))
        tensor([1.0000, 1.0000, 1.0078, 1.0078], dtype=torch.bfloat16)
    """
    pattern = (x.view(torch.int32) + noise) & -0x10000
    # Noise could turn a NaN's pattern into a number's.
    return torch.where(x.isfinite(), pattern.view(torch.float32), x).to(torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Corrected:
    """A bfloat16 parameter with 8 bits more; see :func:`valleys.reference.split`.

    Args:
        param: the nearest bfloat16 numbers.
        correction: int8, what is added to the patterns shifted by 8 bits.
    """

    param: Tensor
    correction: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameter."""
        return self.param.dtype

    def value(self) -> Tensor:
        """Both together, float32."""
        pattern = self.param.view(torch.int16).to(torch.int32)
        magnitude = (((pattern & 0x7FFF) << 8) + self.correction.to(torch.int32)) << 8
        return (magnitude | ((pattern & 0x8000) << 16)).view(torch.float32)

    def store(self, x: Tensor, noise: Tensor | None, skip: Tensor | None) -> None:
        """Round float32 into both, by the low 8 bits of ``noise`` or to nearest, unless ``skip`` is true."""
        pattern = x.view(torch.int32)
        magnitude = pattern & 0x7FFFFFFF
        up = 0x7F + (magnitude >> 8 & 1) if noise is None else noise & 0xFF
        bits = torch.where(x.isnan(), 0x7FC000, (magnitude + up) >> 8)
        high = (bits + 0x80) >> 8
        param = (high | (pattern >> 16 & 0x8000)).to(torch.int16).view(torch.bfloat16)
        correction = (bits - (high << 8)).to(torch.int8)
        if skip is not None:
            param = torch.where(skip, self.param, param)
            correction = torch.where(skip, self.correction, correction)
        self.param.copy_(param)
        self.correction.copy_(correction)


def signed(x: int) -> int:
    """The int32 with the pattern of x modulo 2^32."""
    return (x + 2**31) % 2**32 - 2**31
