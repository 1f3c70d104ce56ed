"""How large a difference is, in units of what seeds do."""

from __future__ import annotations

import math
from collections.abc import Mapping

from valleys.lab.statistics.intervals import Interval, standard_error
from valleys.lab.statistics.noncentral import noncentrality
from valleys.lab.statistics.paired import differences

__all__ = ["hedges_g"]


def hedges_g(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Interval | None:
    r"""Hedges' g of paired data: the mean difference over the standard deviation *of the differences*.

    .. math::
        g = J_{n-1}\, \bar d / s_d,\quad
        J_\nu = \frac{\Gamma(\nu / 2)}{\sqrt{\nu / 2}\;\Gamma((\nu - 1) / 2)}

    That denominator (Cohen's :math:`d_z`) is the one of the paired test: seeds shared by both optimizers cancel, as
    they do in the p value. It is not comparable with a g over the spread of a single optimizer's runs. :math:`J`
    makes g unbiased for :math:`\delta = \mu_d / \sigma_d`; it is zero for two pairs, which hence have no g.

    The interval is of :math:`\delta`, by inverting the noncentral t: exact for normal differences at any number of
    seeds, where a bootstrap of five differences is not. It is not multiplied by :math:`J`, which would undo that.

    Args:
        a: metric by seed.
        b: metric by seed.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        g and its interval; None below three shared seeds. Equal differences have no spread: g is zero or infinite,
        without limits.

    Example:
        >>> found = hedges_g({0: 1.0, 1: 2.5, 2: 3.7, 3: 3.9}, {0: 0.7, 1: 2.6, 2: 2.9, 3: 3.0})
        >>> print(f"{found.estimate:.2f} in [{found.low:.2f}, {found.high:.2f}]")
        0.74 in [-0.27, 2.23]

    Source:
        Hedges, Distribution theory for Glass's estimator of effect size, Journal of Educational Statistics 6, 1981;
        Steiger and Fouladi, Noncentrality interval estimation, 1997.
    """
    d = differences(a, b)
    n = len(d)
    if n < 3:
        return None
    mean, error = math.fsum(d) / n, standard_error(d)
    if error == 0:
        return Interval(math.copysign(math.inf, mean) if mean else 0.0, None, None, confidence, "none")
    t = mean / error
    low, high = (noncentrality(t, n - 1, (1 + side * confidence) / 2) / math.sqrt(n) for side in (1, -1))
    return Interval(_unbiasing(n - 1) * t / math.sqrt(n), low, high, confidence, "noncentral t")


def _unbiasing(freedom: int) -> float:
    return math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)
