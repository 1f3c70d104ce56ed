"""Verdicts on pairs of optimizers: better is said where the interval of the paired differences excludes zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from valleys.lab.statistics.censored import TimeComparison, compare_times
from valleys.lab.statistics.cost import cost_sentence
from valleys.lab.statistics.effect import detectable_difference, hedges_g
from valleys.lab.statistics.intervals import mean_on_scale, median
from valleys.lab.statistics.outcome import Metric, Outcome, Verdict
from valleys.lab.statistics.paired import Difference, paired_difference
from valleys.lab.statistics.sentences import details, sentence
from valleys.lab.statistics.signed_rank import signed_rank_p

__all__ = ["judge", "two_best"]


def judge(
    pairs: Sequence[tuple[str, str]],
    outcomes: Mapping[str, Outcome],
    metric: Metric,
    *,
    unit: str = "round",
    shared: int | None = None,
    level: float = 0.05,
) -> tuple[Verdict, ...]:
    r"""Compare pairs of optimizers, by simultaneous intervals of their paired differences.

    .. math:: \bar d \pm t_{n-1,\,1-\alpha/(2m)}\; \max(s_d, \rho) / \sqrt n

    over the n units that both finished, at level :math:`\alpha` shared by m comparisons (Bonferroni). ``better`` is set
    exactly where the interval excludes no difference and the better one has not lost more units than the other.
    :math:`\rho` is one test example's worth, see :func:`~.paired_difference`.

    Args:
        pairs: names of two optimizers each, fixed before looking at any test metric.
        outcomes: results by optimizer.
        metric: the test metric.
        unit: "round", or "seed" where there is one round.
        shared: the number m of comparisons that share the level. Default: the number of pairs.
        level: chance of any false "better" among them, in (0, 1). Default: 0.05.

    Returns:
        A verdict for each pair, in their order.

    Raises:
        ValueError: if a pair names one optimizer twice or one without outcome, or a number is out of its range.

    Example:
        >>> lamb = Outcome({1: 90.0, 2: 91.0, 3: 92.0})
        >>> alto = Outcome({1: 90.5, 2: 91.4, 3: 92.45})
        >>> (verdict,) = judge([("alto", "lamb")], {"lamb": lamb, "alto": alto}, Metric("accuracy %", maximize=True))
        >>> print(verdict.sentence)
        alto is better than lamb by 0.45 points of test accuracy (0.33 to 0.57)

    Source:
        Dunn, Multiple comparisons among means, Journal of the American Statistical Association 56, 1961.
    """
    comparisons = len(pairs) if shared is None else shared
    if unit not in ("round", "seed"):
        raise ValueError(f"the unit must be round or seed, not {unit!r}")
    if not 0 < level < 1:
        raise ValueError(f"the level must be in (0, 1), not {level}")
    if pairs and comparisons < 1:
        raise ValueError(f"the level must be shared by at least one comparison, not {comparisons}")
    for first, second in pairs:
        missing = [name for name in (first, second) if name not in outcomes]
        if missing or first == second:
            raise ValueError(f"a pair must name two of {', '.join(outcomes)}, not {first} and {second}")
    return tuple(_verdict(pair, outcomes, metric, unit, (level, comparisons)) for pair in pairs)


def two_best(outcomes: Mapping[str, Outcome], metric: Metric) -> tuple[str, str] | None:
    """Return the two best optimizers by validation: those that lost fewest units, by the mean among equals.

    Args:
        outcomes: results by optimizer, of which the validation metrics alone are read.
        metric: the metric, whose scale the mean is taken on.

    Returns:
        Two names, the better one first and equals in the order of ``outcomes``; None where fewer finished a unit.

    Example:
        >>> outcomes = {name: Outcome({}, {1: value}) for name, value in {"sgd": 1.0, "lamb": 3.0, "alto": 2.0}.items()}
        >>> two_best(outcomes, Metric("accuracy %", maximize=True))
        ('lamb', 'alto')
    """
    sign = -1.0 if metric.maximize else 1.0
    ranks = []
    for name, outcome in outcomes.items():
        values = list(_finished(outcome.validation).values())
        if values:
            ranks.append((len(outcome.validation) - len(values), sign * mean_on_scale(values, metric).estimate, name))
    ranks.sort(key=lambda rank: rank[:2])
    return (ranks[0][2], ranks[1][2]) if len(ranks) > 1 else None


def _verdict(
    pair: tuple[str, str], outcomes: Mapping[str, Outcome], metric: Metric, unit: str, shares: tuple[float, int]
) -> Verdict:
    level = shares[0] / shares[1]
    a, b = (outcomes[name] for name in pair)
    finished = _finished(a.test), _finished(b.test)
    lost = len(a.test) - len(finished[0]), len(b.test) - len(finished[1])
    difference = paired_difference(*finished, metric, 1 - level)
    rank_p = _signed_rank(a.test, b.test, metric.maximize, difference)
    times = _times(a, b, "steps"), _times(a, b, "seconds")
    verdict = Verdict(
        *(*pair, None, unit, 0, lost, None, None, None, 1 - level, None),
        *(False, False, None, None, rank_p, *times, "", "", ""),
    )
    if difference is not None:
        verdict = _with_numbers(verdict, difference, metric.maximize, level)
    return replace(
        verdict,
        sentence=sentence(verdict, difference, metric, (len(a.test), len(b.test))),
        details=details(verdict, difference, metric, shares[1]),
        cost=cost_sentence(verdict, a, b),
    )


def _with_numbers(verdict: Verdict, difference: Difference, maximize: bool, level: float) -> Verdict:
    undo, mean, half_width = difference.scale.undo, difference.mean, difference.half_width
    verdict = replace(
        verdict, units=difference.pairs, difference=undo(mean), scale="log" if difference.scale.log else "linear"
    )
    if half_width is None or difference.deviation is None:
        return verdict
    low, high = mean - half_width, mean + half_width
    floored = difference.deviation < difference.least
    deviation = max(difference.deviation, difference.least)
    detectable = detectable_difference(deviation, difference.pairs, level=level) if deviation else None
    better = verdict.first if (low > 0) == maximize else verdict.second
    lost = dict(zip((verdict.first, verdict.second), verdict.lost, strict=True))
    return replace(
        verdict,
        better=better if (low > 0 or high < 0) and lost[better] == min(verdict.lost) else None,
        low=undo(low),
        high=undo(high),
        deviation=difference.deviation,
        floored=floored,
        coarse=floored and low <= 0 <= high,
        effect=None if floored else hedges_g(difference.values, 1 - level),
        detectable=None if detectable is None else undo(detectable),
    )


def _finished(values: Mapping[int, float | None]) -> dict[int, float]:
    return {unit: value for unit, value in values.items() if value is not None and math.isfinite(value)}


def _signed_rank(
    a: Mapping[int, float | None], b: Mapping[int, float | None], maximize: bool, difference: Difference | None
) -> float | None:
    """Return the p value of all shared units; a unit that one optimizer alone lost is an infinite difference."""
    worst = -math.inf if maximize else math.inf
    lost = [[unit not in _finished(side) for unit in sorted(a.keys() & b.keys())] for side in (a, b)]
    one_sided = [worst if first else -worst for first, second in zip(*lost, strict=True) if first != second]
    both = [0.0 for first, second in zip(*lost, strict=True) if first and second]
    every = [*(() if difference is None else difference.values), *one_sided, *both]
    return signed_rank_p(every) if len(every) > 1 else None


def _times(a: Outcome, b: Outcome, kind: str) -> TimeComparison | None:
    times = [{unit: time for unit, time in getattr(side, kind).items() if time > 0} for side in (a, b)]
    return compare_times(*times, horizons=(_end(a, kind), _end(b, kind)))


def _end(outcome: Outcome, kind: str) -> float:
    """Return the steps, or about the seconds, of a whole run; infinite where they are unknown."""
    seconds = [time for time in outcome.step_seconds.values() if 0 < time < math.inf]
    if not outcome.horizon or (kind == "seconds" and not seconds):
        return math.inf
    return outcome.horizon * (median(seconds) if kind == "seconds" else 1.0)
