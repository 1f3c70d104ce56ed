"""Verdicts on comparisons: of the best optimizer, and of a pair fixed beforehand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from valleys.lab.statistics.effect import Detectable, detectable_difference, hedges_g
from valleys.lab.statistics.intervals import mean_interval
from valleys.lab.statistics.outcome import Rival, Verdict
from valleys.lab.statistics.p_values import holm
from valleys.lab.statistics.paired import Difference, paired_difference
from valleys.lab.statistics.sentences import Wording, sentence

__all__ = ["judge", "verdict"]

_Runs = Mapping[str, Mapping[int, float]]


def verdict(
    results: Mapping[str, Mapping[int, float | None]],
    *,
    maximize: bool,
    metric: str,
    batch_size: int,
    level: float = 0.05,
    step_seconds: Mapping[str, Mapping[int, float]] | None = None,
) -> Verdict:
    """Name the best optimizer and its lead, in one sentence.

    The leader is the optimizer with the fewest diverged runs, the best mean among equals. Choosing it by
    its result makes every other optimizer a possible leader, so p values are corrected over *all* pairs:
    over the leader's pairs alone, equal optimizers would differ significantly in 6 to 9 % of comparisons, not 5 %.

    Where no difference from the second is significant, the sentence says which difference so many seeds would have
    found with 80 % power, at the level over the number of pairs: the strictest of Holm's thresholds.

    Args:
        results: the metric by optimizer and seed; None for a run that diverged. An optimizer without runs is
            one whose every trial diverged.
        maximize: whether a larger metric is better.
        metric: the metric's name with its unit.
        batch_size: named in the sentence.
        level: the p value below which a difference counts, in (0, 1).
        step_seconds: median seconds per step by optimizer and seed: what the leader's step costs against the second's
            is then said too, if the interval of their ratio excludes 1. Those that are missing, or not positive, are
            unknown.

    Returns:
        The verdict.

    Raises:
        ValueError: if the level is out of its range.

    Example:
        >>> runs = {"lamb": {0: 90.0, 1: 91.0, 2: 92.0}, "alto": {0: 90.5, 1: 91.4, 2: 92.45}}
        >>> seconds = {"lamb": {0: 0.100, 1: 0.101}, "alto": {0: 0.103, 1: 0.104}}
        >>> print(verdict(runs, maximize=True, metric="%", batch_size=64, step_seconds=seconds).sentence)
        alto beats lamb (second) by 0.45 ± 0.12 % at batch 64 (3 paired seeds, p = 0.0041); costs 3% more time per step
    """
    return _verdict(results, maximize, metric, batch_size, level, step_seconds, " (second)")


def judge(
    a: str,
    b: str,
    results: Mapping[str, Mapping[int, float | None]],
    *,
    maximize: bool,
    metric: str,
    batch_size: int,
    level: float = 0.05,
    step_seconds: Mapping[str, Mapping[int, float]] | None = None,
) -> Verdict:
    """Test two optimizers, both ways, where the pair was fixed before looking.

    The question is one test, two-sided, so nothing is corrected, however many others took part. A pair picked after
    looking belongs to :func:`verdict`. Otherwise the rules are the same: who diverges more often beats nobody.

    Args:
        a: an optimizer.
        b: another.
        results: as of :func:`verdict`; optimizers besides the two are not looked at.
        maximize: whether a larger metric is better.
        metric: the metric's name with its unit.
        batch_size: named in the sentence.
        level: the p value below which the difference counts, in (0, 1).
        step_seconds: as of :func:`verdict`.

    Returns:
        A verdict of two: the leader is the better of them, whichever was named first.

    Raises:
        ValueError: if the two are one, one of them is not among the results, or the level is out of its range.

    Example:
        >>> runs = {"lamb": {0: 90.0, 1: 91.0, 2: 92.0}, "alto": {0: 90.5, 1: 91.4, 2: 92.45}}
        >>> print(judge("lamb", "alto", runs, maximize=False, metric="% errors", batch_size=64).sentence)
        lamb beats alto by 0.45 ± 0.12 % errors at batch 64 (3 paired seeds, p = 0.0041)
    """
    if a == b:
        raise ValueError(f"two different optimizers can be judged, not {a!r} against itself")
    missing = [name for name in (a, b) if name not in results]
    if missing:
        raise ValueError(f"no results of {', '.join(missing)}: there are {', '.join(results)}")
    return _verdict({name: results[name] for name in (a, b)}, maximize, metric, batch_size, level, step_seconds, "")


def _verdict(
    results: Mapping[str, Mapping[int, float | None]],
    maximize: bool,
    metric: str,
    batch_size: int,
    level: float,
    step_seconds: Mapping[str, Mapping[int, float]] | None,
    rank: str,
) -> Verdict:
    if not 0 < level < 1:
        raise ValueError(f"the level must be in (0, 1), not {level}")
    sign = 1.0 if maximize else -1.0
    finished = {
        name: {seed: sign * value for seed, value in runs.items() if value is not None and math.isfinite(value)}
        for name, runs in results.items()
    }
    lost = {name: len(runs) - len(finished[name]) for name, runs in results.items()}
    order = sorted(
        (name for name in results if finished[name]),
        key=lambda name: (lost[name], -mean_interval(list(finished[name].values()))[0]),
    )
    hopeless = [name for name in results if not finished[name]]
    if not order:
        return Verdict(None, (), f"no verdict at batch {batch_size}: no optimizer finished a run")
    leader = order[0]
    pairs = _pairs(order, finished)
    # A pair without a p value is no test, and counts for none.
    tested = [key for key, difference in pairs.items() if difference.p is not None]
    p = _corrected(tested, [pairs[key].p for key in tested])
    wilcoxon_p = _corrected(tested, [pairs[key].wilcoxon_p for key in tested])
    rivals = []
    for name in order[1:]:
        key = leader, name
        difference = pairs.get(key)
        beaten = difference is not None and difference.mean > 0 and key in p and p[key] < level
        effect = hedges_g(finished[leader], finished[name])
        detectable = _detectable(difference, level / max(len(tested), 1))
        rivals.append(Rival(name, difference, p.get(key), beaten, effect, wilcoxon_p.get(key), detectable))
    return Verdict(
        leader,
        (*rivals, *(Rival(name, None, None, False) for name in hopeless)),
        sentence(leader, rivals, hopeless, lost, Wording(metric, batch_size, len(tested), level, rank), step_seconds),
    )


def _pairs(order: Sequence[str], finished: _Runs) -> dict[tuple[str, str], Difference]:
    """Return every pair that shares a seed, keyed in the order of ``order``."""
    every = {(a, b): paired_difference(finished[a], finished[b]) for a, b in itertools.combinations(order, 2)}
    return {key: difference for key, difference in every.items() if difference is not None}


def _corrected(keys: Sequence[tuple[str, str]], p: Sequence[float | None]) -> dict[tuple[str, str], float]:
    return dict(zip(keys, holm([value for value in p if value is not None]), strict=True))


def _detectable(difference: Difference | None, level: float) -> Detectable | None:
    # Differences that are all alike have no spread to judge by.
    if difference is None or not difference.deviation:
        return None
    return detectable_difference(difference.deviation, difference.pairs, level=level)
