"""A number and how far to trust it."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Interval", "bootstrap_interval", "mean_interval", "median", "standard_error"]


@dataclass(frozen=True)
class Interval:
    """An estimate between two limits.

    Args:
        estimate: the number itself.
        low, high: its limits, which may be infinite; None where the data say nothing about them.
        confidence: how often such limits hold the truth. Nominal for Student's t and the bootstrap; for order
            statistics it is what they guarantee, which differs from what was asked.
        method: how the limits were found; ``none`` where there are none.
    """

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    method: str


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the middle two; infinite if it lies among the infinite ones.

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
    r"""Mean and half width of its interval by Student's t.

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
    r"""Standard deviation of the mean.

    .. math:: s / \sqrt n,\quad s^2 = \sum_i (x_i - \bar x)^2 / (n - 1)

    Args:
        values: independent finite measurements, at least two.

    Returns:
        The standard error.

    Example:
        >>> standard_error([1.0, 3.0])
        1.0
    """
    if min(values) == max(values):
        return 0.0  # the mean of equal values may be off by a rounding, which is no spread
    n = len(values)
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Literal["mean", "median"] = "mean",
    confidence: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = 9999,
) -> Interval:
    r"""Interval from the spread of the statistic over samples drawn with replacement.

    The method is BCa (bias-corrected and accelerated). It is not defined where no resampled statistic lies on one
    side of the estimate, or where leaving out one value never changes it (equal values, a median among ties): then
    the interval is that of the percentiles, and ``method`` says so.

    With the few seeds of a comparison it covers less than it says, since a sample understates its own spread: of
    normal values, 95 % intervals of the mean held the truth in 73 % of samples of 3, 83 % of 5, 91 % of 10 and 94 %
    of 30. Prefer :func:`mean_interval`, and for the median :func:`valleys.lab.statistics.median_interval`; this is
    for skewed metrics with many seeds.

    .. math::
        \bigl[\hat G^{-1}(\alpha_1),\ \hat G^{-1}(\alpha_2)\bigr],\quad
        \alpha_i = \Phi\Bigl(z_0 + \frac{z_0 + z_i}{1 - a\,(z_0 + z_i)}\Bigr)

    Args:
        values: independent finite measurements, at least one.
        statistic: ``mean`` or ``median``.
        confidence: nominal coverage, in (0, 1).
        seed: of the resampling.
        resamples: how many samples are drawn.

    Returns:
        The interval; without limits for a single measurement.

    Raises:
        ValueError: without measurements, with one that is not finite, or with another statistic.

    Example:
        >>> found = bootstrap_interval([1.0, 2.0, 4.0, 8.0, 16.0])
        >>> found.method, found.low < 6.2 < found.high
        ('BCa', True)
        >>> bootstrap_interval([1.0, 1.0, 1.0]).method
        'percentile'

    Source:
        Efron, Better bootstrap confidence intervals, Journal of the American Statistical Association 82, 1987;
        computed by ``scipy.stats.bootstrap``.
    """
    import numpy as np
    from scipy.stats import DegenerateDataWarning, bootstrap

    if not values or not all(map(math.isfinite, values)):
        raise ValueError("bootstrap_interval needs at least one value, and finite ones only")
    if statistic not in ("mean", "median"):
        raise ValueError(f"the statistic is 'mean' or 'median', not {statistic!r}")
    function = np.mean if statistic == "mean" else np.median
    estimate = float(function(values))
    if len(values) == 1:
        return Interval(estimate, None, None, confidence, "none")
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)  # the fallback is the answer to it
        result = bootstrap(
            (values,), function, confidence_level=confidence, n_resamples=resamples, vectorized=True, rng=seed
        )
    limits = result.confidence_interval
    if not (math.isfinite(limits.low) and math.isfinite(limits.high)):
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.quantile(result.bootstrap_distribution, tails)
        return Interval(estimate, float(low), float(high), confidence, "percentile")
    return Interval(estimate, float(limits.low), float(limits.high), confidence, "BCa")
