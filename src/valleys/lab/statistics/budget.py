"""The budget curve: the test metric to expect of the best of k trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from valleys.lab.statistics.intervals import Scale, mean_interval, scale_of
from valleys.lab.statistics.outcome import Metric

__all__ = ["BudgetPoint", "budget_curve"]

_Trial = tuple[float | None, float | None]


@dataclass(frozen=True)
class BudgetPoint:
    """A point of the budget curve.

    Args:
        trials: the budget k.
        mean: expected test metric of the best of k trials by validation.
        low, high: limits of its 95 % interval over rounds; None with one round.
    """

    trials: int
    mean: float
    low: float | None
    high: float | None


def budget_curve(
    rounds: Sequence[Sequence[_Trial]], metric: Metric, worst: float | None = None
) -> tuple[BudgetPoint, ...]:
    r"""Return the expected test metric of the best of k trials by validation, for k = 1 to n.

    .. math::
        E_k = \sum_{j=1}^{n} \binom{n - j}{k - 1} \Big/ \binom{n}{k}\; y_{(j)}

    in each round, where :math:`y_{(j)}` is the test metric (on a logarithmic scale its logarithm) of the trial that is
    j-th best by validation: it is the best of a random subset of k trials where the others come after it. This is the
    exact mean over all subsets. The point of the curve is the mean over rounds, with Student's interval.

    A diverged trial is worst by validation, and its test metric counts as ``worst``. Of trials with equal validation
    the earlier one is the better, as in the selection.

    Args:
        rounds: validation and test metric of each trial, in the order of the trials, by round; None: diverged.
        metric: the test metric.
        worst: test metric of a diverged trial. Default: the worst in all of ``rounds``.

    Returns:
        The curve, as long as the round with the fewest trials; empty where no trial finished.

    Example:
        >>> accuracy = Metric("accuracy %", maximize=True)
        >>> [point.mean for point in budget_curve([[(70.0, 60.0), (90.0, 84.0)]], accuracy)]
        [72.0, 84.0]

    Source:
        Dodge et al., Show your work: improved reporting of experimental results, arXiv 1909.03004, with subsets without
        replacement, which makes the mean unbiased, and the test metric of the trial that validation chooses.
    """
    values = [test for trials in rounds for _, test in trials if test is not None and math.isfinite(test)]
    if not values:
        return ()
    if worst is None:
        worst = min(values) if metric.maximize else max(values)
    scale = scale_of(metric, [*values, worst])
    ordered = [_places(trials, metric.maximize, worst, scale) for trials in rounds]
    return tuple(_point(ordered, k, scale) for k in range(1, min(map(len, ordered)) + 1))


def _places(trials: Sequence[_Trial], maximize: bool, worst: float, scale: Scale) -> list[float]:
    """Return the test metrics' places on the scale, best by validation first."""
    sign = -1.0 if maximize else 1.0
    scores = [math.inf if _diverged(trial) else sign * (trial[0] or 0.0) for trial in trials]
    order = sorted(range(len(trials)), key=scores.__getitem__)  # stable: the earlier of equals first
    tests = [worst if _diverged(trials[i]) else trials[i][1] for i in order]
    return [scale.apply(test) for test in tests if test is not None]


def _diverged(trial: Iterable[float | None]) -> bool:
    return any(value is None or not math.isfinite(value) for value in trial)


def _point(ordered: Sequence[Sequence[float]], k: int, scale: Scale) -> BudgetPoint:
    mean, half_width = mean_interval([_expected(places, k) for places in ordered])
    if half_width is None:
        return BudgetPoint(k, scale.undo(mean), None, None)
    return BudgetPoint(k, scale.undo(mean), scale.undo(mean - half_width), scale.undo(mean + half_width))


def _expected(places: Sequence[float], k: int) -> float:
    n = len(places)
    return math.fsum(math.comb(n - j, k - 1) * place for j, place in enumerate(places, 1)) / math.comb(n, k)
