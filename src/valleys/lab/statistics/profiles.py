"""Several comparisons together: performance profiles and mean ranks."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Profile", "Ranking", "performance_profiles", "ranking"]


@dataclass(frozen=True)
class Profile:
    """The share of tasks on which an optimizer is within a factor of the fastest: a step function.

    Args:
        taus: where it steps, rising from 1.
        shares: its value from each step on.
        area: its mean over factors from 1 to ``tau_max``, linear in the factor; 1 is best.
        tau_max: end of the area; the steps go on beyond it.
    """

    taus: tuple[float, ...]
    shares: tuple[float, ...]
    area: float
    tau_max: float

    def at(self, tau: float) -> float:
        """Return the share of tasks within the factor ``tau``: 0 below 1."""
        step = bisect.bisect_right(self.taus, tau)
        return self.shares[step - 1] if step else 0.0


def performance_profiles(times: Mapping[str, Mapping[str, float]], *, tau_max: float = 4.0) -> dict[str, Profile]:
    r"""Compute the performance profiles of optimizers over tasks.

    .. math::
        r_{p,s} = t_{p,s} / \min_{s'} t_{p,s'},\quad
        \rho_s(\tau) = |\{p : r_{p,s} \le \tau\}| / n,\quad
        A_s = \frac{1}{\tau_{\max} - 1} \int_1^{\tau_{\max}} \rho_s(\tau)\, d\tau

    Optimizers that tie for the fastest all count at factor 1. A missed target is within no factor. A task that
    everyone missed still counts among the n, so it lowers every profile alike and moves none past another. The area
    is linear in the factor and exact, up to 4 by default, as in AlgoPerf; times between 1 and 4 of the
    fastest decide it. A profile depends on who else takes part: adding a fast optimizer may change the order of two
    others (Gould and Scott 2016), so read profiles as a picture, and pairs by :func:`~.compare_times`.

    Args:
        times: by task and optimizer, such as medians over seeds; infinite where the target was missed. The same
            optimizers on all tasks.
        tau_max: where the area ends, above 1.

    Returns:
        A profile by optimizer, in the order of the first task.

    Raises:
        ValueError: without tasks or optimizers, if an optimizer lacks a task, or if a number is out of its range.

    Example:
        >>> profiles = performance_profiles({"x": {"a": 1.0, "b": 2.0}, "y": {"a": float("inf"), "b": 5.0}})
        >>> profiles["a"].at(1), profiles["a"].area
        (0.5, 0.5)
        >>> profiles["b"].taus, profiles["b"].shares
        ((1.0, 2.0), (0.5, 1.0))

    Source:
        Dolan and More, Benchmarking optimization software with performance profiles, Mathematical Programming 91,
        2002; the area: Dahl et al., arXiv 2306.07179; the caveat: Gould and Scott, A note on performance profiles,
        ACM Transactions on Mathematical Software 43, 2016.
    """
    if not 1 < tau_max < math.inf:
        raise ValueError(f"tau_max must be above 1 and finite, not {tau_max}")
    names = list(next(iter(times.values()), {}))
    if not names:
        raise ValueError("a profile needs at least one task and one optimizer")
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for task, row in times.items():
        if row.keys() != ratios.keys():
            raise ValueError(f"task {task!r} has other optimizers than the first: {sorted(row.keys() ^ ratios.keys())}")
        if not all(time > 0 for time in row.values()):
            raise ValueError(f"task {task!r}: times must be positive numbers, infinite for a missed target")
        best = min(row.values())
        for name, time in row.items():
            ratios[name].append(time / best if math.isfinite(time) else math.inf)
    return {name: _profile(values, tau_max) for name, values in ratios.items()}


def _profile(ratios: list[float], tau_max: float) -> Profile:
    taus = tuple(sorted({1.0, *filter(math.isfinite, ratios)}))
    shares = tuple(sum(ratio <= tau for ratio in ratios) / len(ratios) for tau in taus)
    # Each task adds the stretch from its ratio to the end, which is the integral of its step.
    stretches = math.fsum(max(tau_max - ratio, 0.0) for ratio in ratios)
    return Profile(taus, shares, stretches / len(ratios) / (tau_max - 1), tau_max)


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over comparisons.

    Args:
        ranks: mean rank of each optimizer, the best (lowest) first.
        critical: the difference of two mean ranks beyond which they differ significantly.
        groups: the largest sets of optimizers, neighbours by rank, whose mean ranks do not differ significantly; those
            of one optimizer are left out.
        comparisons: their number.
    """

    ranks: Mapping[str, float]
    critical: float
    groups: tuple[tuple[str, ...], ...]
    comparisons: int


def ranking(scores: Sequence[Mapping[str, float]], *, level: float = 0.05) -> Ranking:
    r"""Rank optimizers in each comparison and average the ranks; equal scores share the mean of their ranks.

    .. math:: \mathrm{CD} = q_{\alpha} \sqrt{\frac{k (k + 1)}{6 N}}

    for k optimizers over N comparisons, with the studentized range :math:`q_\alpha` for k groups and infinitely many
    degrees of freedom, divided by :math:`\sqrt 2`.

    Args:
        scores: of each comparison, by optimizer; larger is better, minus infinity for one that diverged. All have the
            same optimizers, two or more.
        level: chance of any false difference, in (0, 1). Default: 0.05.

    Returns:
        The ranking.

    Raises:
        ValueError: without comparisons, with fewer than two optimizers, or with different ones.

    Example:
        >>> result = ranking([{"sgd": 1.0, "lamb": 2.0, "alto": 2.0}, {"sgd": 1.0, "lamb": 3.0, "alto": 2.0}])
        >>> result.ranks, round(result.critical, 2), result.groups
        ({'lamb': 1.25, 'alto': 1.75, 'sgd': 3.0}, 2.34, (('lamb', 'alto', 'sgd'),))

    Source:
        Demsar, Statistical comparisons of classifiers over multiple data sets, Journal of Machine Learning Research 7,
        2006 (Nemenyi's test).
    """
    from scipy.stats import rankdata, studentized_range

    names = list(scores[0]) if scores else []
    if len(names) < 2 or any(row.keys() != scores[0].keys() for row in scores):
        raise ValueError("a ranking needs comparisons of the same optimizers, two or more")
    columns = zip(*(rankdata([-row[name] for name in names]) for row in scores), strict=True)
    means = {name: math.fsum(map(float, column)) / len(scores) for name, column in zip(names, columns, strict=True)}
    ranks = dict(sorted(means.items(), key=lambda entry: entry[1]))
    k = len(names)
    critical = (
        float(studentized_range.ppf(1 - level, k, math.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / 6 / len(scores))
    )
    order = list(ranks)
    reach = [sum(ranks[other] - ranks[name] <= critical for other in order[start:]) for start, name in enumerate(order)]
    ends = [start + length for start, length in enumerate(reach)]
    groups = [
        tuple(order[start:end])
        for start, end in enumerate(ends)
        if end - start > 1 and (start == 0 or end > ends[start - 1])
    ]
    return Ranking(ranks, critical, tuple(groups), len(scores))
