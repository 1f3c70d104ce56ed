"""Paired differences of two optimizers on the metric's scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from valleys.lab.statistics.intervals import Scale, scale_of, standard_error, t_quantile
from valleys.lab.statistics.outcome import Metric

__all__ = ["Difference", "paired_difference"]

_LINEAR = Metric("metric", maximize=True)
_SLACK = 1e-9  # of an example: accuracies are sums of shares that were rounded


@dataclass(frozen=True)
class Difference:
    """Paired differences, first minus second, with their mean and its interval.

    Args:
        values: one difference for each shared unit, on the scale: of logarithms on a logarithmic one.
        scale: of the values.
        mean: of the differences.
        half_width: half the width of the mean's interval; None below two units.
        deviation: standard deviation of the differences; None below two units.
        least: one test example's worth on the scale, which the interval takes for the deviation where that is below.
        within: True if no two paired values lie further apart than one test example.
        raised: True if a value lay below half a test example and was taken as half of one.
    """

    values: tuple[float, ...]
    scale: Scale
    mean: float
    half_width: float | None
    deviation: float | None
    least: float
    within: bool
    raised: bool

    @property
    def pairs(self) -> int:
        """Number of shared units."""
        return len(self.values)


def paired_difference(
    a: Mapping[int, float],
    b: Mapping[int, float],
    metric: Metric = _LINEAR,
    confidence: float = 0.95,
) -> Difference | None:
    r"""Return the mean of ``a - b`` on the metric's scale and its interval by Student's t, over the shared units.

    .. math:: \bar d \pm t_{n-1,\,(1+c)/2}\; \max(s_d, \rho) / \sqrt n

    :math:`\rho` is one test example's worth: a metric with steps may show no spread where there is one. On a
    logarithmic scale, where :math:`d_i = \log a_i - \log b_i`, it is :math:`\log(1 + \rho / \bar x)` at the smaller of
    the two geometric means.

    Args:
        a: metric by unit (round or seed), finite.
        b: the same of the other optimizer.
        metric: its scale and resolution. Default: a linear scale without resolution.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        The difference; None if no unit is shared.

    Example:
        >>> difference = paired_difference({0: 3.0, 1: 5.0}, {0: 1.0, 1: 1.0, 2: 9.0})
        >>> difference.values, difference.mean
        ((2.0, 4.0), 3.0)

    Source:
        Student, The probable error of a mean, Biometrika 6, 1908.
    """
    units = sorted(a.keys() & b.keys())
    if not units:
        return None
    sides = [[side[unit] for unit in units] for side in (a, b)]
    scale = scale_of(metric, [*sides[0], *sides[1]])
    places = [[scale.apply(value) for value in side] for side in sides]
    values = tuple(first - second for first, second in zip(*places, strict=True))
    n, least = len(values), least_difference(metric.resolution, scale, places)
    deviation = standard_error(values) * math.sqrt(n) if n > 1 else None
    return Difference(
        values,
        scale,
        math.fsum(values) / n,
        None if deviation is None else t_quantile(confidence, n - 1) * max(deviation, least) / math.sqrt(n),
        deviation,
        least,
        all(abs(x - y) <= metric.resolution * (1 + _SLACK) for x, y in zip(*sides, strict=True)),
        scale.log and any(value < scale.floor for side in sides for value in side),
    )


def least_difference(resolution: float, scale: Scale, places: Sequence[Sequence[float]]) -> float:
    """Return one test example's worth on the scale, at the smallest mean of several groups of places."""
    if not scale.log or resolution == 0:
        return resolution
    return math.log1p(resolution / math.exp(min(math.fsum(side) / len(side) for side in places)))
