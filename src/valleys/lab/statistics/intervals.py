"""Means, medians and their intervals, on a linear or a logarithmic scale."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from valleys.lab.statistics.outcome import Metric

__all__ = ["Interval", "Scale", "mean_interval", "mean_on_scale", "median"]


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


@dataclass(frozen=True)
class Scale:
    """A linear or a logarithmic scale.

    Args:
        log: True for logarithms.
        floor: the value that smaller ones count as before the logarithm is taken.
    """

    log: bool
    floor: float = 0.0

    def apply(self, value: float) -> float:
        """Return a value's place on the scale."""
        return math.log(max(value, self.floor)) if self.log else value

    def undo(self, place: float) -> float:
        """Return the value at a place, of a difference of places the ratio; infinite where it is beyond all floats."""
        try:
            return math.exp(place) if self.log else place
        except OverflowError:
            return math.inf


def scale_of(metric: Metric, values: Iterable[float]) -> Scale:
    """Return the scale for these values of a metric.

    On a logarithmic scale a value below half the metric's resolution counts as half of it. A continuous metric has no
    resolution: where one of its values has no logarithm, the scale is linear.

    Example:
        >>> from valleys.lab.statistics import Metric
        >>> errors = Metric("error %", maximize=False, scale="log", resolution=0.5)
        >>> round(scale_of(errors, [0.0, 2.0]).apply(0.0), 3)
        -1.386
    """
    if metric.scale != "log" or (metric.resolution == 0 and min(values, default=1.0) <= 0):
        return Scale(False)
    return Scale(True, metric.resolution / 2)


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
    if not values:
        raise ValueError("mean_interval needs at least one value")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    return mean, t_quantile(confidence, n - 1) * standard_error(values)


def mean_on_scale(values: Sequence[float], metric: Metric, confidence: float = 0.95) -> Interval:
    r"""Return the mean on the metric's scale with its interval by Student's t, both in the metric's unit.

    .. math:: \exp\left( \overline{\log x} \pm t_{n-1,\,(1+c)/2}\; s / \sqrt n \right)

    on a logarithmic scale, which is the geometric mean; :func:`mean_interval` on a linear one.

    Args:
        values: independent finite measurements, at least one.
        metric: what was measured.
        confidence: coverage ``c``, in (0, 1).

    Returns:
        The interval, without limits where there is one value. Its method names the scale.

    Raises:
        ValueError: without measurements.

    Example:
        >>> from valleys.lab.statistics import Metric
        >>> mean = mean_on_scale([1.0, 2.0, 4.0], Metric("loss", maximize=False, scale="log"))
        >>> print(f"{mean.estimate:.2f} ({mean.low:.2f} to {mean.high:.2f})")
        2.00 (0.36 to 11.19)
    """
    scale = scale_of(metric, values)
    mean, half_width = mean_interval([scale.apply(value) for value in values], confidence)
    if half_width is None:
        return Interval(scale.undo(mean), None, None, confidence, "none")
    limits = scale.undo(mean - half_width), scale.undo(mean + half_width)
    return Interval(scale.undo(mean), *limits, confidence, "Student's t" + " on logarithms" * scale.log)


@lru_cache(maxsize=1024)
def t_quantile(confidence: float, freedom: int) -> float:
    """Return half the width of Student's interval in units of the standard error."""
    from scipy.stats import t

    return float(t.isf((1 - confidence) / 2, freedom))


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
