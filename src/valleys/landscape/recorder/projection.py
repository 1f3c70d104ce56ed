"""A random projection to a few numbers that keeps lengths and inner products: for paths too long to be kept whole."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from valleys.kernels.rounding import mix, mix_tensor, salt, signed
from valleys.landscape.recorder.sums import sum_dtype

__all__ = ["Projection"]

_RUN = 32  # neighbouring elements that share a hash: a word of 32 bits has a sign for each
_CHUNK = 2**12  # runs that are worked on at a time: 1 MiB in float64; smaller ones pay more for calls than for sums


class Projection:
    r"""Project tensors to ``dimension`` numbers by random signs and random places.

    .. math:: y_b = \sum_{j:\, h(j) = b} s(j)\, x_j, \qquad
        E\, y \cdot y' = x \cdot x', \qquad \mathrm{Var}\, |y|^2 \le \frac{2}{d} |x|^4

    with a sign s(j) and a place h(j) in {0, ..., d-1} for each element j, both from a hash of the seed; no d x n matrix
    is in memory. The map is linear, so differences of projections are projections of differences, and the relative
    standard error of a square length is at most :math:`\sqrt{2/d}`, of a length about :math:`1/\sqrt{2d}`: 1.1 % at
    4096 numbers. This holds for every x, over the seeds. It holds for each distance, not for all of a run at once, and
    distances of one run share their error: they are measured with one matrix.

    Neighbours share a hash: 32 elements go to 32 places in a row (around the end), of which the first is drawn. So any
    two elements meet with probability 1/d (the variance above) or, as neighbours, never.

    Args:
        dimension: d, at least 32. Default: 4096.
        seed: of the hash, in [0, 2^32). Default: 0.

    Raises:
        ValueError: a dimension or seed out of range.

    Example:
        >>> projection = Projection(1024)
        >>> x = torch.ones(100, 100)
        >>> y = projection([x])
        >>> y.shape, 0.8 < float(y.norm() / x.norm()) < 1.2
        (torch.Size([1024]), True)
        >>> torch.allclose(projection([3 * x]), 3 * y)
        True

    Source: Charikar, Chen, Farach-Colton 2002 (count sketch); places drawn for runs of neighbours: ours.
    """

    def __init__(self, dimension: int = 4096, seed: int = 0) -> None:
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < _RUN:
            raise ValueError(f"dimension {dimension!r}: choose an integer of at least {_RUN}; 4096 errs by 1 %")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"seed {seed!r}: choose an integer from 0 to 2^32 - 1")
        self.dimension = dimension
        self.seed = seed

    @property
    def error(self) -> float:
        """The relative standard error of a length, half that of its square, at most."""
        return 1 / math.sqrt(2 * self.dimension)

    def __call__(self, tensors: Sequence[Tensor], first: int = 0) -> Tensor:
        """Project real tensors, laid end to end; the result, (dimension,), is on the first one's device.

        ``first`` is the number of the first tensor among all that belong together: each number has signs and places of
        its own, so that the projections of parts add up to that of the whole.
        """
        home = tensors[0].device
        total = torch.zeros(self.dimension, dtype=sum_dtype(home), device=home)
        grids: dict[torch.device, Tensor] = {}
        for number, tensor in enumerate(tensors, first):
            if tensor.device not in grids:
                shape, dtype = (self.dimension, _RUN), sum_dtype(tensor.device)
                grids[tensor.device] = torch.zeros(shape, dtype=dtype, device=tensor.device)
            self._add(grids[tensor.device], tensor.detach().reshape(-1), number)
        for grid in grids.values():
            # A run that begins at b has its element p at b + p.
            begins = torch.arange(self.dimension, device=grid.device)[:, None]
            places = (begins - torch.arange(_RUN, device=grid.device)) % self.dimension
            total += grid.gather(0, places).sum(1).to(home, total.dtype)
        return total

    def _add(self, grid: Tensor, flat: Tensor, number: int) -> None:
        """Adds a tensor's runs, signed, to the rows of ``grid`` in which they begin."""
        own = salt(self.seed, number)
        runs = -(-flat.numel() // _RUN)
        for begin in range(0, runs, _CHUNK):
            end = min(begin + _CHUNK, runs)
            values = flat[begin * _RUN : end * _RUN]
            if values.numel() < (end - begin) * _RUN:
                values = torch.nn.functional.pad(values, (0, (end - begin) * _RUN - values.numel()))
            counter = torch.arange(begin, end, dtype=torch.int64, device=flat.device).to(torch.int32)
            # Two rounds with two keys: the streams of two tensors must not be the same one shifted.
            words = mix_tensor(mix_tensor(counter ^ signed(own)) + signed(mix(own + 1)))
            starts = mix_tensor(mix_tensor(counter ^ signed(mix(own + 2))) + signed(mix(own + 3)))
            signs = _signs(flat.device, flat.dtype).index_select(0, _bytes(words)).view(-1, _RUN)
            rows = (starts.to(torch.int64) & 0xFFFFFFFF) % self.dimension
            # A sign is exact in every type, so only the sum needs the wide one.
            grid.index_add_(0, rows, signs.mul_(values.view(-1, _RUN)).to(grid.dtype))


def _bytes(words: Tensor) -> Tensor:
    """The four bytes of each word, one after the other."""
    return torch.stack([words >> shift & 0xFF for shift in (0, 8, 16, 24)], dim=1).flatten()


@functools.lru_cache(maxsize=16)
def _signs(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(256, 8): the eight signs in a byte."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return (2 * bits - 1).to(dtype)
