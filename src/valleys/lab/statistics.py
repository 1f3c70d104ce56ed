"""Intervals, paired differences, and the sentence that says who won."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "Difference",
    "Rival",
    "Verdict",
    "format_mean",
    "holm",
    "mean_interval",
    "paired_difference",
    "verdict",
]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences.

    Args:
        mean: mean of ``a - b`` over the seeds that both finished.
        half_width: half the width of its interval; None below two pairs.
        p: two-sided p value of Student's t; None below two pairs.
        pairs: number of seeds.
    """

    mean: float
    half_width: float | None
    p: float | None
    pairs: int


@dataclass(frozen=True)
class Rival:
    """How the leader stands against one other optimizer.

    Args:
        name: the other optimizer.
        difference: by how much the leader is better (positive), whichever way the metric points; None if no
            seed was finished by both.
        p: p value after Holm's correction over all pairs of optimizers; None below two pairs.
        beaten: whether the leader is better and ``p`` is below the level.
    """

    name: str
    difference: Difference | None
    p: float | None
    beaten: bool


@dataclass(frozen=True)
class Verdict:
    """Who won, and by how much.

    Args:
        leader: the best optimizer; None if no run finished.
        rivals: all others, best first.
        sentence: the same in words.
    """

    leader: str | None
    rivals: tuple[Rival, ...]
    sentence: str


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None]:
    r"""Mean and half width of its interval by Student's t.

    .. math:: \bar x \pm t_{n-1,\,(1+c)/2}\; s / \sqrt n

    Args:
        values: independent finite measurements, at least one.
        confidence: coverage ``c``, in (0, 1).

    Returns:
        Mean and half width; the half width of a single measurement is unknown: None.

    Raises:
        ValueError: without measurements.

    Example:
        >>> mean, half_width = mean_interval([1.0, 2.0, 3.0])
        >>> print(f"{mean:.2f} +- {half_width:.2f}")
        2.00 +- 2.48
    """
    from scipy.stats import t

    if not values:
        raise ValueError("mean_interval needs at least one value")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    return mean, float(t.ppf((1 + confidence) / 2, n - 1)) * _standard_error(values)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference | None:
    r"""Mean of ``a - b``, its interval and p value, over the seeds that both have.

    .. math:: d_i = a_i - b_i,\quad t = \bar d \sqrt n / s_d,\quad p = 2 P(T_{n-1} > |t|)

    Args:
        a: metric by seed.
        b: metric by seed.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        The difference; None if no seed is shared.

    Example:
        >>> paired_difference({0: 3.0, 1: 5.0}, {0: 1.0, 1: 1.0, 2: 9.0}).mean
        3.0
    """
    from scipy.stats import t

    differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    if not differences:
        return None
    mean, half_width = mean_interval(differences, confidence)
    if half_width is None:
        return Difference(mean, None, None, 1)
    error = _standard_error(differences)
    if error == 0:  # all differences alike: t is 0/0 or infinite
        return Difference(mean, half_width, 1.0 if mean == 0 else 0.0, len(differences))
    p = 2 * float(t.sf(abs(mean) / error, len(differences) - 1))
    return Difference(mean, half_width, p, len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Holm's correction: the chance of any false discovery among all tests stays below the level.

    .. math:: \tilde p_{(k)} = \max_{j \le k} \min(1, (m - j + 1)\, p_{(j)})

    Args:
        p_values: uncorrected, in any order.

    Returns:
        Corrected values in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def verdict(
    results: Mapping[str, Mapping[int, float | None]],
    *,
    maximize: bool,
    metric: str,
    batch_size: int,
    level: float = 0.05,
) -> Verdict:
    """Who won and by how much, in one sentence.

    The leader is the optimizer with the fewest diverged runs, the best mean among equals. Choosing it by
    its result makes every other optimizer a possible leader, so p values are corrected over *all* pairs:
    over the leader's pairs alone, equal optimizers would be told apart in 6 to 9 % of comparisons, not 5 %.

    Args:
        results: the metric by optimizer and seed; None for a run that diverged. An optimizer without runs is
            one whose every trial diverged.
        maximize: whether a larger metric is better.
        metric: the metric's name with its unit.
        batch_size: named in the sentence.
        level: the p value below which a difference counts, in (0, 1).

    Returns:
        The verdict.
    """
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
    corrected = _corrected(order, finished)
    rivals = []
    for name in order[1:]:
        difference = paired_difference(finished[leader], finished[name])
        p = corrected.get((leader, name))
        beaten = difference is not None and difference.mean > 0 and p is not None and p < level
        rivals.append(Rival(name, difference, p, beaten))
    return Verdict(
        leader,
        (*rivals, *(Rival(name, None, None, False) for name in hopeless)),
        _sentence(leader, rivals, hopeless, lost, metric, batch_size, len(corrected) > 1),
    )


def format_mean(mean: float, half_width: float | None) -> str:
    """A mean and its interval with the digits that the interval leaves meaningful.

    Args:
        mean: the mean.
        half_width: half the interval's width; None where it is unknown.

    Returns:
        Text such as ``97.12 ± 0.35``.

    Example:
        >>> format_mean(97.1234, 0.3456)
        '97.12 ± 0.35'
        >>> format_mean(3.21e-7, 4e-8)
        '3.21e-07 ± 4.0e-08'
    """
    if half_width is None:
        return f"{mean:.4g}"
    largest = max(abs(mean), half_width)
    if largest != 0 and (largest < 1e-2 or largest >= 1e6):
        return f"{mean:.2e} ± {half_width:.1e}"
    digits = 2 if half_width == 0 else min(max(1 - math.floor(math.log10(half_width)), 0), 4)
    return f"{mean:.{digits}f} ± {half_width:.{digits}f}"


def _standard_error(values: Sequence[float]) -> float:
    n = len(values)
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def _corrected(order: Sequence[str], finished: Mapping[str, Mapping[int, float]]) -> dict[tuple[str, str], float]:
    """Holm's p value of every pair that shares two seeds, keyed in the order of ``order``."""
    raw = {}
    for a, b in itertools.combinations(order, 2):
        difference = paired_difference(finished[a], finished[b])
        if difference is not None and difference.p is not None:
            raw[a, b] = difference.p
    return dict(zip(raw, holm(list(raw.values())), strict=True))


def _sentence(
    leader: str,
    rivals: Sequence[Rival],
    hopeless: Sequence[str],
    lost: Mapping[str, int],
    metric: str,
    batch_size: int,
    many: bool,
) -> str:
    parts = []
    if not rivals:
        others = "no other optimizer finished a run" if hopeless else "there is nothing to compare it with"
        parts.append(f"{leader} alone at batch {batch_size}: {others}")
    else:
        parts.append(_against(leader, rivals[0], metric, batch_size, many, lost))
    beaten = [f"{rival.name} ({_p(rival.p)})" for rival in rivals[1:] if rival.beaten]
    open_ = [f"{rival.name} ({_p(rival.p)})" for rival in rivals[1:] if not rival.beaten]
    if beaten:
        beaten = [f"{leader} beats {', '.join(beaten)}"]
    if open_:
        open_ = [f"{'no difference found' if rivals[0].beaten else 'nor'} from {', '.join(open_)}"]
    # "nor" must follow the sentence on the second, which found no difference either
    parts += beaten + open_ if rivals and rivals[0].beaten else open_ + beaten
    parts += [f"{name} finished no run" for name in hopeless if rivals]
    parts += [f"{name} diverged on {lost[name]} fresh seeds" for name in lost if lost[name] and name not in hopeless]
    return "; ".join(parts)


def _against(leader: str, rival: Rival, metric: str, batch_size: int, many: bool, lost: Mapping[str, int]) -> str:
    undecided = f"no difference found between {leader} and {rival.name} at batch {batch_size}"
    difference = rival.difference
    if difference is None:
        return f"{undecided}: there is no seed that both finished"
    amount = f"{format_mean(difference.mean, difference.half_width)} {metric}"
    seeds = f"{difference.pairs} paired seed{'s' * (difference.pairs > 1)}"
    p = f"{_p(rival.p)}{', Holm' * (many and rival.p is not None)}"
    if rival.beaten:
        return f"{leader} beats {rival.name} (second) by {amount} at batch {batch_size} ({seeds}, {p})"
    if lost[rival.name] > lost[leader] and difference.mean < 0:
        return (
            f"{leader} leads {rival.name} at batch {batch_size} only because it diverges less often: "
            f"where both finished, the difference is {amount} ({seeds}, {p})"
        )
    return f"{undecided}: {amount} ({seeds}, {p})"


def _p(p: float | None) -> str:
    if p is None:
        return "too few seeds for a p value"
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
