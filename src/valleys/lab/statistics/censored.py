"""Time to a target that some runs miss.

A run that misses its target counts as infinite; to drop it would reward missing. Every run is watched to the same
end, so a missed target is only known to lie beyond it, and an order of times is all that is used. Kaplan and Meier's
curve is for runs watched for different lengths; here it would be the plain share of runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from valleys.lab.statistics.intervals import Interval, median
from valleys.lab.statistics.ranks import sign_p, signed_rank_p

__all__ = ["TimeComparison", "compare_times", "median_interval", "reached_share"]


@dataclass(frozen=True)
class TimeComparison:
    """Two optimizers' times to a target over the same seeds.

    Args:
        pairs: number of shared seeds.
        sooner, later: on how many of them the first optimizer was there before, or after, the second.
        ties: on how many they were there at once, or neither was.
        wilcoxon_p: two-sided p value of Wilcoxon's signed rank test on the logarithms of the ratios.
        sign_p: the same of the sign test, which needs no symmetry.
        ratio: first median over second; None if both are infinite. See ``bound``.
        bound: empty where the ratio is itself; ``at least`` or ``at most`` where one median lies beyond the end of
            the runs, which then stands for it.
    """

    pairs: int
    sooner: int
    later: int
    ties: int
    wilcoxon_p: float
    sign_p: float
    ratio: float | None
    bound: str


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""Interval of the median between two of the values themselves, whatever their distribution.

    .. math::
        [x_{(k)},\ x_{(n+1-k)}],\quad
        P(\text{holds the median}) \ge 1 - 2 P(B \le k - 1),\quad B \sim \mathrm{Bin}(n, 1/2)

    The largest k that guarantees what is asked. Below six values not even the extremes guarantee 95 %: they are
    returned with what they do guarantee, 93.75 % for five, 75 % for three.

    Args:
        values: independent, at least one; infinite ones are values like others.
        confidence: coverage asked for, in (0, 1).

    Returns:
        Median and limits, which may be infinite; ``confidence`` is the guaranteed coverage. Without limits for a
        single value.

    Raises:
        ValueError: without values, or with one that is not a number.

    Example:
        >>> found = median_interval([5.0, 3.0, 4.0, float("inf"), 1.0, 2.0])
        >>> found.estimate, found.low, found.high, found.confidence
        (3.5, 1.0, inf, 0.96875)

    Source:
        Thompson, On confidence ranges for the median, Annals of Mathematical Statistics 7, 1936.
    """
    from scipy.stats import binom

    estimate, ordered, n = median(values), sorted(values), len(values)
    if n == 1:
        return Interval(estimate, None, None, confidence, "none")
    guaranteed = [1 - 2 * float(binom.cdf(k - 1, n, 0.5)) for k in range(1, n // 2 + 1)]
    k = max((k for k, value in enumerate(guaranteed, 1) if value >= confidence), default=1)
    return Interval(estimate, ordered[k - 1], ordered[n - k], guaranteed[k - 1], "order statistics")


def reached_share(times: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""Share of runs that reached their target, with Clopper and Pearson's interval.

    .. math:: [B_{(1-c)/2}(k, n - k + 1),\ B_{(1+c)/2}(k + 1, n - k)],\quad B_q \text{ the Beta quantile}

    Not Wilson's, which is narrower but for some shares holds the truth less often than it says: of five runs, down to
    83 %.

    Args:
        times: of at least one run; infinite where it missed.
        confidence: coverage, in (0, 1), never undercut.

    Returns:
        The share and its interval.

    Raises:
        ValueError: without runs, or with a time that is not a positive number.

    Example:
        >>> found = reached_share([10.0, 12.0, float("inf"), 11.0, 9.0])
        >>> print(f"{found.estimate} in [{found.low:.2f}, {found.high:.2f}]")
        0.8 in [0.28, 0.99]

    Source:
        Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 26, 1934.
    """
    from scipy.stats import binomtest

    _check(times)
    if not times:
        raise ValueError("reached_share needs at least one run")
    reached = sum(map(math.isfinite, times))
    limits = binomtest(reached, len(times)).proportion_ci(confidence, "exact")
    return Interval(reached / len(times), float(limits.low), float(limits.high), confidence, "Clopper-Pearson")


def compare_times(
    a: Mapping[int, float], b: Mapping[int, float], *, horizon: float | None = None
) -> TimeComparison | None:
    r"""Two optimizers' times to a target over the seeds that both have.

    .. math:: d_i = \log(a_i / b_i),\quad d_i = \pm\infty \text{ if one missed},\quad d_i = 0 \text{ if both did}

    A seed on which one optimizer alone arrived is the largest difference there is, all such seeds alike; one on
    which neither did says nothing about which is sooner.

    Args:
        a: time by seed; infinite where the run missed.
        b: the same of the other optimizer.
        horizon: end of the runs in the same unit, of the optimizer whose median is infinite where they differ. It
            restricts the ratio: an infinite median is at least this. Without it such a ratio is infinite or zero.

    Returns:
        The comparison, below 1 where ``a`` is sooner; None if no seed is shared.

    Raises:
        ValueError: if a time or the horizon is not positive.

    Example:
        >>> never = float("inf")
        >>> found = compare_times({0: 50.0, 1: 60.0, 2: 70.0}, {0: 90.0, 1: never, 2: never}, horizon=100.0)
        >>> found.sooner, found.bound, found.ratio
        (3, 'at most', 0.6)

    Source:
        Ranks as in :func:`valleys.lab.statistics.signed_rank_p`; an infinite score for a missed target as in Dahl
        et al., Benchmarking neural network training algorithms, arXiv 2306.07179.
    """
    _check([*a.values(), *b.values(), *([] if horizon is None else [horizon])])
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    d = [_log_ratio(a[seed], b[seed]) for seed in seeds]
    sooner, later = sum(x < 0 for x in d), sum(x > 0 for x in d)
    ratio, bound = _ratio(median([a[seed] for seed in seeds]), median([b[seed] for seed in seeds]), horizon)
    return TimeComparison(len(d), sooner, later, len(d) - sooner - later, signed_rank_p(d), sign_p(d), ratio, bound)


def _log_ratio(a: float, b: float) -> float:
    # Equal times first: log a - log b of two infinite ones is not a number.
    return 0.0 if a == b else math.log(a) - math.log(b)


def _ratio(a: float, b: float, horizon: float | None) -> tuple[float | None, str]:
    end = math.inf if horizon is None else horizon
    if math.isinf(a) and math.isinf(b):
        return None, ""
    if math.isinf(a):
        return end / b, "at least"
    return (a / end, "at most") if math.isinf(b) else (a / b, "")


def _check(times: Iterable[float]) -> None:
    if not all(time > 0 for time in times):
        raise ValueError("times must be positive numbers, infinite for a missed target")
