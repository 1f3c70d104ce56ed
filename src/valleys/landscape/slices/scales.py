"""Scales of losses: linear, or logarithmic where they are positive and wide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

_DECADES = 6  # of a logarithmic scale below the largest value; the rest has the colour of its lower end


def is_wide(values: Sequence[float]) -> bool:
    """Return True for positive values that differ by more than a factor of 10."""
    return bool(values) and min(values) > 0 and max(values) > 10 * min(values)


def color_range(values: Tensor, loss: bool) -> tuple[float, float, bool]:
    """Return the lowest and the highest colour's value, and True for a logarithmic scale, as only a loss may have."""
    finite = values[values.isfinite()]
    low, high = float(finite.min()), float(finite.max())
    if loss and low >= 0 and high > 10 * low:
        positive = float(finite[finite > 0].min())
        low = max(positive, high * 10.0**-_DECADES)
        if high > 10 * low:
            return low, high, True
        low = float(finite.min())
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # flat: a band around the only value
        margin = 0.01 * abs(high) or 0.01
        return low - margin, high + margin, False
    return low, high, False


def levels_between(low: float, high: float, count: int, logarithmic: bool) -> list[float]:
    """Return evenly spaced numbers, both ends among them."""
    shares = [index / count for index in range(1, count)]
    inner = [low * (high / low) ** share if logarithmic else low + (high - low) * share for share in shares]
    return [low, *inner, high]


def norm(low: float, high: float, logarithmic: bool) -> Any:
    """Return matplotlib's map from values to colours."""
    from matplotlib.colors import LogNorm, Normalize

    return (LogNorm if logarithmic else Normalize)(low, high)


def round_ticks(low: float, high: float) -> list[float]:
    """Return round numbers for a logarithmic scale, as many as can be read."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 9:
            break
    return ticks
