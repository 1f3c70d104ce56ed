"""Verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from valleys.lab.statistics.effect import Detectable
from valleys.lab.statistics.intervals import mean_interval
from valleys.lab.statistics.outcome import Rival

__all__ = ["Wording", "format_mean", "sentence"]

# A step costs about the same where its excess is at most the first, or may be 0, and is surely below the second.
_EQUAL, _SAME = 0.01, 0.05


@dataclass(frozen=True)
class Wording:
    """Words of a sentence besides the numbers.

    Args:
        metric: the metric's name with its unit.
        batch_size: of the comparison.
        pairs: pairs of optimizers that were tested.
        level: of the test, before the correction.
        rank: what follows the second's name, such as `` (second)``.
    """

    metric: str
    batch_size: int
    pairs: int
    level: float
    rank: str


def format_mean(mean: float, half_width: float | None) -> str:
    """Format a mean and its interval with the digits that the interval leaves meaningful.

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


def sentence(
    leader: str,
    rivals: Sequence[Rival],
    hopeless: Sequence[str],
    lost: Mapping[str, int],
    wording: Wording,
    step_seconds: Mapping[str, Mapping[int, float]] | None,
) -> str:
    """Describe, without a full stop, the leader's standing against the others.

    Args:
        leader: the best optimizer.
        rivals: those that finished a run, best first.
        hopeless: those that finished none.
        lost: diverged runs by optimizer.
        wording: what the sentence says besides.
        step_seconds: seconds per step by optimizer and seed, if known.
    """
    if rivals:
        cost = _cost(leader, rivals[0].name, not rivals[0].beaten, step_seconds or {})
        parts = _against_all(leader, rivals, lost, wording, cost)
        parts += [f"{name} finished no run" for name in hopeless]
    else:
        others = "no other optimizer finished a run" if hopeless else "there is nothing to compare it with"
        parts = [f"{leader} alone at batch {wording.batch_size}: {others}"]
    parts += [f"{name} diverged on {lost[name]} fresh seeds" for name in lost if lost[name] and name not in hopeless]
    return "; ".join(parts)


def _against_all(
    leader: str, rivals: Sequence[Rival], lost: Mapping[str, int], wording: Wording, costs: list[str]
) -> list[str]:
    second, rest = rivals[0], rivals[1:]
    beaten = [f"{rival.name} ({_p(rival.p)})" for rival in rest if rival.beaten]
    open_ = [f"{rival.name} ({_p(rival.p)})" for rival in rest if not rival.beaten]
    beaten = [f"{leader} beats {', '.join(beaten)}"] if beaten else []
    first = _against(leader, second, lost, wording)
    if second.beaten:
        return [first, *costs, *beaten, *([f"no difference found from {', '.join(open_)}"] if open_ else [])]
    # "nor" must follow the sentence on the second, which found no difference either
    nor = [f"nor from {', '.join(open_)}"] if open_ else []
    power = [] if _by_divergence(leader, second, lost) else _detectable(leader, second, wording, named=bool(nor))
    return [first, *nor, *power, *costs, *beaten]


def _against(leader: str, rival: Rival, lost: Mapping[str, int], wording: Wording) -> str:
    batch = f"at batch {wording.batch_size}"
    difference = rival.difference
    if difference is None:
        return f"no difference found between {leader} and {rival.name} {batch}: there is no seed that both finished"
    amount = f"{format_mean(difference.mean, difference.half_width)} {wording.metric}"
    seeds = f"{difference.pairs} paired seed{'s' * (difference.pairs > 1)}"
    p = f"{_p(rival.p)}{', Holm' * (wording.pairs > 1 and rival.p is not None)}"
    if rival.beaten:
        return f"{leader} beats {rival.name}{wording.rank} by {amount} {batch} ({seeds}, {p})"
    if _by_divergence(leader, rival, lost):
        return (
            f"{leader} leads {rival.name} {batch} only because it diverges less often: "
            f"where both finished, the difference is {amount} ({seeds}, {p})"
        )
    return f"no difference found between {leader} and {rival.name} {batch}: {amount} ({seeds}, {p})"


def _by_divergence(leader: str, rival: Rival, lost: Mapping[str, int]) -> bool:
    return lost[rival.name] > lost[leader] and rival.difference is not None and rival.difference.mean < 0


def _detectable(leader: str, rival: Rival, wording: Wording, named: bool) -> list[str]:
    detectable: Detectable | None = rival.detectable
    if detectable is None:
        return []
    between = f" between {leader} and {rival.name}" if named else ""
    level = f", level {wording.level:g}/{wording.pairs}" if wording.pairs > 1 else ""
    return [
        f"{detectable.seeds} seeds could have seen {_amount(detectable.difference)}{between} "
        f"(power {detectable.power:.0%}{level})"
    ]


def _cost(leader: str, second: str, named: bool, step_seconds: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return the cost of the leader's step, such as ``costs 3% more time per step``; empty if no seed has both times.

    The ratio of a seed's two times is what both runs, made one after the other on the same machine, have in common; its
    logarithms are averaged. A busy machine makes an interval of any width, and then there is nothing to claim.
    """
    times = [step_seconds.get(name, {}) for name in (leader, second)]
    seeds = sorted(times[0].keys() & times[1].keys())
    ratios = [times[0][seed] / times[1][seed] for seed in seeds if times[1][seed] > 0 and times[0][seed] > 0]
    if not ratios or not all(map(math.isfinite, ratios)):
        return []
    mean, half_width = mean_interval([math.log(ratio) for ratio in ratios])
    excess, low, high = (math.expm1(x) for x in (mean, mean - (half_width or 0.0), mean + (half_width or 0.0)))
    subject, object_ = (f"{leader} ", f" than {second}") if named else ("", "")
    if max(abs(low), abs(high)) <= _SAME and (abs(excess) <= _EQUAL or low <= 0 <= high):
        return [f"{subject}costs about the same per step{object_.replace('than', 'as')}"]
    if low <= 0 <= high:
        return [f"time per step not told apart ({low:+.0%} to {high:+.0%})"]
    return [f"{subject}costs {abs(excess):.0%} {'more' if excess > 0 else 'less'} time per step{object_}"]


def _amount(value: float) -> str:
    return f"{value:.0f}" if 100 <= value < 1e6 else f"{value:.2g}"


def _p(p: float | None) -> str:
    if p is None:
        return "too few seeds for a p value"
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
