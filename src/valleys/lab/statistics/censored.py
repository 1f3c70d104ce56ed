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
from valleys.lab.statistics.signed_rank import signed_rank_p

__all__ = ["TimeComparison", "compare_times"]


@dataclass(frozen=True)
class TimeComparison:
    """Two optimizers' times to a target over the same units.

    Args:
        units: number of shared units.
        sooner, later: in how many of them the first optimizer reached the target before, or after, the second.
        ties: in how many both reached it at once, or neither did.
        signed_rank_p: two-sided p value of the signed-rank test on the logarithms of the ratios.
        ratio: first median over second; None if both are infinite. See ``bound``.
        bound: empty where the ratio is itself; ``at least`` or ``at most`` where one median lies beyond the end of
            the runs, which then stands for it.
    """

    units: int
    sooner: int
    later: int
    ties: int
    signed_rank_p: float
    ratio: float | None
    bound: str


def compare_times(
    a: Mapping[int, float], b: Mapping[int, float], *, horizons: tuple[float, float] = (math.inf, math.inf)
) -> TimeComparison | None:
    r"""Compare two optimizers' times to a target over the units (rounds, or fresh seeds) that both have.

    .. math:: d_i = \log(a_i / b_i),\quad d_i = \pm\infty \text{ if one missed},\quad d_i = 0 \text{ if both did}

    A unit in which one optimizer alone reached the target is the largest difference there is, all such units alike; one
    in which neither did says nothing about which is sooner.

    Args:
        a: time by unit, positive; infinite where the run missed.
        b: the same of the other optimizer.
        horizons: end of the runs of ``a`` and of ``b`` in the same unit of time. An infinite median is at least this,
            which bounds the ratio. Default: infinite, and so is or zero such a ratio.

    Returns:
        The comparison, with a ratio below 1 where ``a`` is sooner; None if no unit is shared.

    Raises:
        ValueError: if a time or a horizon is not positive.

    Example:
        >>> never = float("inf")
        >>> times = compare_times({0: 50.0, 1: 60.0, 2: 70.0}, {0: 90.0, 1: never, 2: never}, horizons=(100.0, 100.0))
        >>> times.sooner, times.bound, times.ratio
        (3, 'at most', 0.6)

    Source:
        Ranks as in :func:`~.signed_rank.signed_rank_p`; an infinite score for a missed target as in Dahl
        et al., Benchmarking neural network training algorithms, arXiv 2306.07179.
    """
    _check([*a.values(), *b.values(), *horizons])
    units = sorted(a.keys() & b.keys())
    if not units:
        return None
    d = [_log_ratio(a[unit], b[unit]) for unit in units]
    sooner, later = sum(x < 0 for x in d), sum(x > 0 for x in d)
    ratio, bound = _ratio(median([a[unit] for unit in units]), median([b[unit] for unit in units]), horizons)
    return TimeComparison(len(d), sooner, later, len(d) - sooner - later, signed_rank_p(d), ratio, bound)


def _log_ratio(a: float, b: float) -> float:
    # Equal times first: log a - log b of two infinite ones is not a number.
    return 0.0 if a == b else math.log(a) - math.log(b)


def _ratio(a: float, b: float, horizons: tuple[float, float]) -> tuple[float | None, str]:
    if math.isinf(a) and math.isinf(b):
        return None, ""
    if math.isinf(a):
        return horizons[0] / b, "at least"
    return (a / horizons[1], "at most") if math.isinf(b) else (a / b, "")


def _check(times: Iterable[float]) -> None:
    if not all(time > 0 for time in times):
        raise ValueError("times must be positive numbers, infinite for a missed target")
