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

from dataclasses import dataclass, replace

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
        codes: (rows, length), int8 or, for the second moment, uint8.
        scales: (rows, blocks) float32.
        role: which state it is: explore, exp_avg or exp_avg_sq.
    """

    codes: Tensor
    scales: Tensor
    role: str

    def __getitem__(self, rows: slice) -> Quantized:
        return replace(self, codes=self.codes[rows], scales=self.scales[rows])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype by which kernels know states in 8 bits, whatever the codes' own."""
        return torch.int8

    def numel(self) -> int:
        """The number of elements."""
        return self.codes.numel()

    def clone(self) -> Quantized:
        """A copy."""
        return replace(self, codes=self.codes.clone(), scales=self.scales.clone())

    def copy_(self, other: Quantized) -> None:
        """Take over the values of another one."""
        self.codes.copy_(other.codes)
        self.scales.copy_(other.scales)

    def dequantize(self) -> Tensor:
        """The values, float32."""
        values = _blocks(self.codes.float()) * self.scales.unsqueeze(-1)
        values = values.flatten(1)[:, : self.codes.shape[1]]
        return values if self.role == "explore" else values * values.abs()

    def store(self, values: Tensor, noise: Noise | None) -> None:
        """Round float32 values into it, by its random bits of ``noise`` or to nearest."""
        random = None if noise is None else uniform(noise, self.role, self.codes)
        codes, scales = quantize(values, self.role, random)
        self.codes.copy_(codes)
        self.scales.copy_(scales)


def code_dtype(role: str) -> torch.dtype:
    """The dtype of a state's codes."""
    return torch.uint8 if role == "exp_avg_sq" else torch.int8


def block_count(length: int) -> int:
    """The number of blocks in a row."""
    return -(-length // BLOCK)


def quantize(values: Tensor, role: str, random: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes and scales of a float32 matrix; ``random`` are numbers in (0, 1) for stochastic rounding.

    Example:
        >>> quantize(torch.tensor([[-0.5, 0.1, 1.27]]), "explore")
        (tensor([[-50,  10, 127]], dtype=torch.int8), tensor([[0.0100]]))
    """
    length, x = values.shape[1], _blocks(values if role == "explore" else _root(values.abs()))
    largest = x.abs().amax(-1)
    # A tensor: dividing by a number is multiplying by its inverse on a GPU, which rounds otherwise.
    codes_of_largest = torch.full_like(largest, 255 if role == "exp_avg_sq" else 127)
    finite, empty = largest.isfinite(), largest < _LEAST
    scales = (largest / codes_of_largest).masked_fill(empty, 0.0).masked_fill(~finite, torch.nan)
    inverse = (codes_of_largest / largest).masked_fill(empty | ~finite, 0.0).unsqueeze(-1)
    y = x.masked_fill(~finite.unsqueeze(-1), 0.0) * inverse
    u = None if random is None else _blocks(random)
    if role == "explore":
        codes = (y if u is None else y + (u - 0.5)).round()
    else:
        codes = _root_codes(y, u)
        codes = codes.clamp(min=1.0) if role == "exp_avg_sq" else codes.copysign(_blocks(values))
    return codes.flatten(1)[:, :length].to(code_dtype(role)), scales


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


def _root(x: Tensor) -> Tensor:
    # Rounded correctly, as a processor's instruction does it, which torch's own root on a CPU does not.
    return x.sqrt() if x.device.type == "mps" else x.double().sqrt().float()


def _root_codes(y: Tensor, u: Tensor | None) -> Tensor:
    if u is None:
        return y.round()
    c = y.floor()
    return c + ((y - c) * (y + c) > u * (c + c + 1))


def _blocks(values: Tensor) -> Tensor:
    """A matrix (rows, length) as (rows, blocks, 256), zeros behind the last element of a row."""
    rest = -values.shape[1] % BLOCK
    values = torch.nn.functional.pad(values, (0, rest)) if rest else values
    return values.reshape(values.shape[0], -1, BLOCK)
