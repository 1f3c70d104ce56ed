"""Refusals that the modules of this package share: they name argument, value, range and remedy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def real(name: str, value: ArrayLike, low: float, high: float, remedy: str, *, low_open: bool = False) -> Floats:
    """The value as float64, if all of it is finite and in [low, high), or (low, high) with ``low_open``."""
    array = np.asarray(value, dtype=np.float64)
    inside = np.isfinite(array) & ((array > low) if low_open else (array >= low)) & (array < high)
    if array.size == 0 or not inside.all():
        bad = "an empty array" if array.size == 0 else f"{array[~inside].flat[0]:g}"
        opening = "(" if low_open or math.isinf(low) else "["
        raise ValueError(f"{name} must be finite numbers in {opening}{low:g}, {high:g}), got {bad}; {remedy}")
    return array


def decay(name: str, value: ArrayLike) -> Floats:
    """A decay of an exponential moving average: in [0, 1)."""
    return real(name, value, 0.0, 1.0, "the average remembers 1 / (1 - beta) steps")


def whole(name: str, value: int, low: int, remedy: str) -> int:
    """An integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}; {remedy}")
    return int(value)
