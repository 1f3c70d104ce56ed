"""Time to a target that some runs miss.

A run that misses its target counts as infinite; to drop it would reward missing. Every run is watched to the same
end, so a missed target is only known to lie beyond it, and an order of times is all that is used. Kaplan and Meier's
curve is for runs watched for different lengths; here it would be the plain share of runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from valleys.lab.statistics.intervals import median
from valleys.lab.statistics.p_values import sign_p, signed_rank_p

__all__ = ["TimeComparison", "compare_times"]


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


def compare_times(
    a: Mapping[int, float], b: Mapping[int, float], *, horizon: float | None = None
) -> TimeComparison | None:
    r"""Compare two optimizers' times to a target over the seeds that both have.

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
        >>> times = compare_times({0: 50.0, 1: 60.0, 2: 70.0}, {0: 90.0, 1: never, 2: never}, horizon=100.0)
        >>> times.sooner, times.bound, times.ratio
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
