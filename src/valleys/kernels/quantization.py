r"""States in 8 bits: blocks of 256 elements with a code each and a scale in float32 together.

A block lies in one row of the first dimension, so that shards along it have whole blocks; a row's last one may be
shorter. The codes are those of :func:`valleys.reference.quantize`, with or without random bits for stochastic rounding.

The bits of element i of a block whose first element is number n of its tensor are a function of i, n and the tensor's
key alone, in 32-bit arithmetic,

.. math::
    h = (mix(i) \oplus mix(n + key)) \cdot \text{0x9E3779B1},

of which E's buffer takes bits 12 to 21, the first moment 22 to 31, and the second 2 to 11. They are cheaper than those
of ``rounding``: elements of one block share mix(n + key).

Source: ours; block-wise scales after Dettmers et al. 2022 (arXiv 2110.02861).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from valleys.kernels.rounding import Noise, mix_tensor, signed

BLOCK = 256
"""Elements that share a scale."""

_LEAST = 1e-30  # a block without a larger magnitude is 0
_MULTIPLIER = signed(0x9E3779B1)
_SHIFTS = {"explore": 12, "exp_avg": 22, "exp_avg_sq": 2}


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix in 8 bits.

    Args:
        codes: (rows, length) int8, in units of the scale; or uint8, of the root of what they stand for.
        scales: (rows, blocks) float32.
    """

    codes: Tensor
    scales: Tensor

    def __getitem__(self, rows: slice) -> Quantized:
        return Quantized(self.codes[rows], self.scales[rows])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype by which kernels know states in 8 bits, whatever the codes' own."""
        return torch.int8

    def numel(self) -> int:
        """The number of elements."""
        return self.codes.numel()

    def clone(self) -> Quantized:
        """A copy."""
        return Quantized(self.codes.clone(), self.scales.clone())

    def copy_(self, other: Quantized) -> None:
        """Take over the values of another one."""
        self.codes.copy_(other.codes)
        self.scales.copy_(other.scales)

    def dequantize(self) -> Tensor:
        """The values, float32."""
        values = _blocks(self.codes.float()) * self.scales.unsqueeze(-1)
        values = values.flatten(1)[:, : self.codes.shape[1]]
        return values if self.codes.dtype == torch.int8 else values.square()

    def store(self, values: Tensor, noise: Noise | None, role: str) -> None:
        """Round float32 values into it; ``role`` says which random bits of ``noise`` are used, None uses none."""
        random = None if noise is None else uniform(noise, role, self.codes)
        codes, scales = quantize(values, self.codes.dtype == torch.int8, random)
        self.codes.copy_(codes)
        self.scales.copy_(scales)


def block_count(length: int) -> int:
    """The number of blocks in a row."""
    return -(-length // BLOCK)


def quantize(values: Tensor, is_signed: bool, random: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes and scales of a float32 matrix; ``random`` are numbers in (0, 1) for stochastic rounding.

    Example:
        >>> codes, scales = quantize(torch.tensor([[-0.5, 0.1, 1.27]]), is_signed=True)
        >>> codes, scales
        (tensor([[-50,  10, 127]], dtype=torch.int8), tensor([[0.0100]]))
    """
    length, x = values.shape[1], _blocks(values if is_signed else values.sqrt())
    largest = x.abs().amax(-1)
    # A tensor: dividing by a number is multiplying by its inverse on a GPU, which rounds otherwise.
    codes_of_largest = torch.full_like(largest, 127 if is_signed else 255)
    finite, empty = largest.isfinite(), largest < _LEAST
    scales = (largest / codes_of_largest).masked_fill(empty, 0.0).masked_fill(~finite, torch.nan)
    inverse = (codes_of_largest / largest).masked_fill(empty | ~finite, 0.0).unsqueeze(-1)
    y = x.masked_fill(~finite.unsqueeze(-1), 0.0) * inverse
    u = None if random is None else _blocks(random)
    codes = _signed_codes(y, u) if is_signed else _root_codes(y, u)
    return codes.flatten(1)[:, :length].to(torch.int8 if is_signed else torch.uint8), scales


def uniform(noise: Noise, role: str, like: Tensor) -> Tensor:
    """A number in (0, 1) for each element of a matrix: (k + 1/2) / 1024 of 10 random bits k."""
    (rows, length), device = like.shape, like.device
    first = signed(noise.key + noise.start) if isinstance(noise.key, int) else noise.key + signed(noise.start)
    numbers = torch.arange(rows, dtype=torch.int32, device=device).unsqueeze(1) * length
    numbers = numbers + torch.arange(0, length, BLOCK, dtype=torch.int32, device=device)
    words = mix_tensor(torch.arange(BLOCK, dtype=torch.int32, device=device)) ^ mix_tensor(numbers + first).unsqueeze(
        -1
    )
    bits = (words * _MULTIPLIER >> _SHIFTS[role]) & 0x3FF
    return ((bits.float() + 0.5) / 1024).flatten(1)[:, :length]


def _signed_codes(y: Tensor, u: Tensor | None) -> Tensor:
    return (y if u is None else y + (u - 0.5)).round()


def _root_codes(y: Tensor, u: Tensor | None) -> Tensor:
    codes = y.round()
    if u is not None:
        c = y.floor()
        codes = c + ((y - c) * (y + c) > u * (c + c + 1))
    return codes.clamp(min=1.0)


def _blocks(values: Tensor) -> Tensor:
    """A matrix (rows, length) as (rows, blocks, 256), zeros behind the last element of a row."""
    rest = -values.shape[1] % BLOCK
    values = torch.nn.functional.pad(values, (0, rest)) if rest else values
    return values.reshape(values.shape[0], -1, BLOCK)
