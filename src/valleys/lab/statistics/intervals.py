"""Means, medians and their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Interval", "mean_interval", "median"]


@dataclass(frozen=True)
class Interval:
    """An estimate between two limits.

    Args:
        estimate: the number itself.
        low, high: its limits, which may be infinite; None where the data say nothing about them.
        confidence: the nominal coverage.
        method: of the limits; ``none`` where there are none.
    """

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    method: str


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the middle two; infinite if it lies among the infinite ones.

    Args:
        values: at least one; infinity is a value like others.

    Returns:
        The median.

    Raises:
        ValueError: without values, or with one that is not a number.

    Example:
        >>> median([3.0, 1.0, float("inf")])
        3.0
        >>> median([1.0, float("inf")])
        inf
    """
    if not values or any(map(math.isnan, values)):
        raise ValueError("median needs at least one value, and no NaN")
    return float(statistics.median(values))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None]:
    r"""Return the mean and the half width of its interval by Student's t.

    .. math:: \bar x \pm t_{n-1,\,(1+c)/2}\; s / \sqrt n

    Args:
        values: independent finite measurements, at least one.
        confidence: coverage ``c``, in (0, 1).

    Returns:
        Mean and half width; the half width of a single measurement is unknown: None.

    Raises:
        ValueError: without measurements.

    Example:
        >>> mean, half_width = mean_interval([1.0, 2.0, 3.0])
        >>> print(f"{mean:.2f} +- {half_width:.2f}")
        2.00 +- 2.48

    Source:
        Student, The probable error of a mean, Biometrika 6, 1908.
    """
    from scipy.stats import t

    if not values:
        raise ValueError("mean_interval needs at least one value")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    return mean, float(t.ppf((1 + confidence) / 2, n - 1)) * standard_error(values)


def standard_error(values: Sequence[float]) -> float:
    r"""Return the standard deviation of the mean of at least two values.

    .. math:: s / \sqrt n,\quad s^2 = \sum_i (x_i - \bar x)^2 / (n - 1)

    Example:
        >>> standard_error([1.0, 3.0])
        1.0
    """
    if min(values) == max(values):
        return 0.0  # the mean of equal values may be off by a rounding, which is no spread
    n = len(values)
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
