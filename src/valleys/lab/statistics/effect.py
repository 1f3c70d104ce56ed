"""Effect sizes of paired differences: Hedges' g, and the minimum detectable difference."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

from valleys.lab.statistics.intervals import Interval, standard_error

__all__ = ["detectable_difference", "hedges_g"]


def hedges_g(differences: Sequence[float], confidence: float = 0.95) -> Interval | None:
    r"""Return Hedges' g of paired data: the mean difference over the standard deviation *of the differences*.

    .. math::
        g = J_{n-1}\, \bar d / s_d,\quad
        J_\nu = \frac{\Gamma(\nu / 2)}{\sqrt{\nu / 2}\;\Gamma((\nu - 1) / 2)}

    That denominator (Cohen's :math:`d_z`) is the one of the paired interval, in which cancels what the two optimizers
    share. It is not comparable with a g over the spread of a single optimizer's runs. :math:`J` makes g unbiased for
    :math:`\delta = \mu_d / \sigma_d`; it is zero for two pairs, which hence have no g.

    The interval is of :math:`\delta`, by inverting the noncentral t: exact for normal differences at any number of
    pairs, where a bootstrap of five differences is not. It is not multiplied by :math:`J`, which would undo that. It
    includes zero exactly where Student's interval of the same confidence does.

    Args:
        differences: one of each pair.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        g and its interval; None below three differences. Equal differences have no spread: g is zero or infinite,
        without limits. Without limits also where the mean is so far from zero, in units of its standard error, that
        SciPy's noncentral t is not a number.

    Example:
        >>> g = hedges_g([0.3, -0.1, 0.8, 0.9])
        >>> print(f"{g.estimate:.2f} in [{g.low:.2f}, {g.high:.2f}]")
        0.74 in [-0.27, 2.23]

    Source:
        Hedges, Distribution theory for Glass's estimator of effect size, Journal of Educational Statistics 6, 1981;
        Steiger and Fouladi, Noncentrality interval estimation, 1997.
    """
    n = len(differences)
    if n < 3:
        return None
    mean, error = math.fsum(differences) / n, standard_error(differences)
    if error == 0:
        return Interval(math.copysign(math.inf, mean) if mean else 0.0, None, None, confidence, "none")
    t = mean / error
    low, high = (_noncentrality(t, n - 1, (1 + side * confidence) / 2) for side in (1, -1))
    estimate = _unbiasing(n - 1) * t / math.sqrt(n)
    if low is None or high is None:
        return Interval(estimate, None, None, confidence, "none")
    return Interval(estimate, low / math.sqrt(n), high / math.sqrt(n), confidence, "noncentral t")


def detectable_difference(deviation: float, units: int, *, level: float = 0.05, power: float = 0.8) -> float | None:
    r"""Return the smallest difference whose interval excludes zero with a given chance.

    .. math:: \Delta:\ P(|T_{n-1,\,\sqrt n \Delta / \sigma_d}| > t_{n-1,\,1-\alpha/2}) = 1 - \beta

    It depends on the spread of the differences, not on their mean, so it is not "observed power", which only says the
    p value again. But a spread seen in few units is itself uncertain: that of 5 units may be 0.35 to 1.67 times the
    true one (95 %), of 10 units 0.55 to 1.45 times.

    Args:
        deviation: standard deviation of the paired differences, positive.
        units: number of pairs, at least two.
        level: one minus the confidence of the interval, in (0, 1). Where m pairs share a level it is the level over m.
        power: the chance, above the level and below 1.

    Returns:
        The difference, in the unit of the deviation; None where SciPy's noncentral t is not a number, as it may be for
        two units and a level near zero.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> print(f"{detectable_difference(1.0, 5):.3f}")
        1.682

    Source:
        Bloom, Minimum detectable effects, Evaluation Review 19, 1995, in its exact form.
    """
    if not deviation > 0 or not math.isfinite(deviation):
        raise ValueError(f"the deviation must be positive and finite, not {deviation}")
    if not 0 < level < 1:
        raise ValueError(f"the level must be in (0, 1), not {level}")
    if not level < power < 1:
        raise ValueError(f"the power must be above the level and below 1, not {power}")
    if units < 2:
        raise ValueError(f"a paired test needs at least two units, not {units}")
    shift = _shift(units - 1, level, power)
    return None if shift is None else shift * deviation / math.sqrt(units)


def _unbiasing(freedom: int) -> float:
    return math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)


def _noncentrality(t: float, freedom: int, probability: float) -> float | None:
    """Return the shift under which a t at or below this one has this probability."""
    if t < 0:  # where SciPy's CDF is less often a number
        mirrored = _noncentrality(-t, freedom, 1 - probability)
        return None if mirrored is None else -mirrored
    return _root(lambda shift: probability - _cdf(t, freedom, shift), t, 1 + abs(t))


@lru_cache(maxsize=1024)
def _shift(freedom: int, level: float, power: float) -> float | None:
    from scipy.stats import t

    critical = float(t.isf(level / 2, freedom))

    def excess(shift: float) -> float:
        # Power is even in the shift; the rising branch alone has one root.
        shift = max(shift, 0.0)
        return 1 - _cdf(critical, freedom, shift) + _cdf(-critical, freedom, shift) - power

    return _root(excess, 1.0, 1.0)


def _cdf(t: float, freedom: int, shift: float) -> float:
    """Return the CDF of the noncentral t distribution, NaN where SciPy's series does not converge."""
    from scipy.stats import nct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        # SciPy's CDF of a negative t is NaN near most shifts of the other sign, its mirror image is a number.
        return float(nct.cdf(t, freedom, shift) if t >= 0 else nct.sf(-t, freedom, -shift))


def _root(rising: Callable[[float], float], start: float, step: float) -> float | None:
    """Return the root of a rising function, searched for in steps that double; None where the function is NaN."""
    from scipy.optimize import brentq

    if math.isnan(rising(start)):
        return None
    low, high = start - step, start + step
    while rising(low) > 0:
        low, step = low - 2 * step, 2 * step
    while rising(high) < 0:
        high, step = high + 2 * step, 2 * step
    try:
        return float(brentq(rising, low, high, xtol=1e-12, rtol=1e-12))
    except ValueError:  # a value on the way is NaN
        return None
