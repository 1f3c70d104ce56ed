"""Differences of two optimizers over the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from valleys.lab.statistics.intervals import mean_interval, standard_error
from valleys.lab.statistics.p_values import signed_rank_p

__all__ = ["Difference", "paired_difference"]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences.

    Args:
        mean: mean of ``a - b`` over the seeds that both finished.
        half_width: half the width of its interval; None below two pairs.
        p: two-sided p value of Student's t; None below two pairs.
        pairs: number of seeds.
        deviation: standard deviation of the differences; None below two pairs.
        wilcoxon_p: two-sided p value of Wilcoxon's signed rank test; None below two pairs.
    """

    mean: float
    half_width: float | None
    p: float | None
    pairs: int
    deviation: float | None = None
    wilcoxon_p: float | None = None


def differences(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """Return the differences ``a - b`` over the seeds that both have, in the order of the seeds.

    Example:
        >>> differences({1: 5.0, 0: 3.0}, {0: 1.0, 1: 1.0, 2: 9.0})
        [2.0, 4.0]
    """
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference | None:
    r"""Return the mean of ``a - b``, its interval and p values, over the seeds that both have.

    .. math:: d_i = a_i - b_i,\quad t = \bar d \sqrt n / s_d,\quad p = 2 P(T_{n-1} > |t|)

    Wilcoxon's p value stands beside Student's for metrics whose differences are far from normal. Fix beforehand
    which of them decides: the smaller of the two is no p value.

    Args:
        a: metric by seed.
        b: metric by seed.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        The difference; None if no seed is shared.

    Example:
        >>> paired_difference({0: 3.0, 1: 5.0}, {0: 1.0, 1: 1.0, 2: 9.0}).mean
        3.0

    Source:
        Student, The probable error of a mean, Biometrika 6, 1908; Wilcoxon's as in
        :func:`valleys.lab.statistics.signed_rank_p`.
    """
    from scipy.stats import t

    d = differences(a, b)
    if not d:
        return None
    n = len(d)
    mean, half_width = mean_interval(d, confidence)
    if half_width is None:
        return Difference(mean, None, None, 1)
    error = standard_error(d)
    wilcoxon_p = signed_rank_p(d)
    if error == 0:  # all differences alike: t is 0/0 or infinite
        return Difference(mean, half_width, 1.0 if mean == 0 else 0.0, n, 0.0, wilcoxon_p)
    p = 2 * float(t.sf(abs(mean) / error, n - 1))
    return Difference(mean, half_width, p, n, error * math.sqrt(n), wilcoxon_p)
