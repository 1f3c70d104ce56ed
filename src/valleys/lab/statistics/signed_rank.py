"""The exact signed-rank test, which uses the order of differences and not their size."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["signed_rank_p"]

_EXACT = 50


def signed_rank_p(differences: Sequence[float]) -> float:
    r"""Return the two-sided p value of Wilcoxon's signed rank test.

    .. math:: W = \sum_{d_i > 0} r_i,\quad p = P(|W' - E W'| \ge |W - E W|)

    Each sign of ``W'`` is a fair coin. Zeros by Pratt's method: they are ranked with the others, then left out of the
    sums, so that a zero still says how large the rest are. Ties share the mean of their ranks. Up to 50 differences
    the distribution is exact, ties and zeros included (scipy's exact one has neither); beyond, it is normal with the
    exact variance. With n differences p is at least :math:`2^{1-n}`: five pairs never reach 0.05, six do.

    Args:
        differences: paired ones; infinite ones rank largest, and tie among themselves.

    Returns:
        The p value; 1 if every difference is zero or there is none.

    Raises:
        ValueError: if a difference is not a number.

    Example:
        >>> signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0])
        0.0625

    Source:
        Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1, 1945; Pratt, Remarks on zeros and
        ties in the Wilcoxon signed rank procedures, Journal of the American Statistical Association 54, 1959.
    """
    import numpy as np
    from scipy.stats import norm, rankdata

    d = np.asarray(differences, dtype=float)
    if np.isnan(d).any():
        raise ValueError("a difference that is not a number has no rank")
    if not d.any():
        return 1.0
    doubled = np.rint(2 * rankdata(np.abs(d))).astype(int)  # midranks are halves: whole numbers compare exactly
    weights, positive = doubled[d != 0], doubled[d > 0]
    total = int(weights.sum())
    distance = abs(2 * int(positive.sum()) - total)
    if len(d) > _EXACT:
        return min(1.0, 2 * float(norm.sf(distance / math.sqrt(float((weights.astype(float) ** 2).sum())))))
    chances = np.zeros(total + 1)
    chances[0] = 1.0
    for weight in weights:
        with_it = np.zeros_like(chances)
        with_it[weight:] = chances[: total + 1 - weight]
        chances = (chances + with_it) / 2
    return min(1.0, float(chances[np.abs(2 * np.arange(total + 1) - total) >= distance].sum()))
