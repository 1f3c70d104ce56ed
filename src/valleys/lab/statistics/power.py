"""What a number of seeds can see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from valleys.lab.statistics.noncentral import noncentral_t_cdf, root

__all__ = ["Detectable", "detectable_difference", "paired_power", "seeds_needed"]


@dataclass(frozen=True)
class Detectable:
    """The smallest difference that would probably have been found.

    Args:
        difference: its size, in the metric's unit.
        seeds: paired seeds.
        level: of the test. Among m pairs it is the level over m, the strictest of Holm's thresholds: conservative,
            since Holm's others are larger.
        power: the chance to find it.
    """

    difference: float
    seeds: int
    level: float
    power: float


def paired_power(difference: float, deviation: float, seeds: int, *, level: float = 0.05) -> float:
    r"""The chance that a two-sided paired t test finds a difference.

    .. math::
        P(|T_{n-1,\,\delta}| > t_{n-1,\,1-\alpha/2}),\quad \delta = \sqrt n\,\Delta / \sigma_d

    Args:
        difference: the true mean of the paired differences.
        deviation: their standard deviation, positive.
        seeds: number of pairs, at least two.
        level: of the test, in (0, 1).

    Returns:
        The power; the level itself where there is no difference.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> print(f"{paired_power(1.0, 1.0, 10):.3f}")
        0.803

    Source:
        Cohen, Statistical power analysis for the behavioral sciences, 1988, in its exact form.
    """
    _check(deviation, level)
    if seeds < 2:
        raise ValueError(f"a paired test needs at least two seeds, not {seeds}")
    return _power(math.sqrt(seeds) * abs(difference) / deviation, seeds - 1, level)


def detectable_difference(deviation: float, seeds: int, *, level: float = 0.05, power: float = 0.8) -> Detectable:
    r"""The smallest difference that a two-sided paired t test finds with a given chance.

    .. math:: \Delta:\ P(|T_{n-1,\,\sqrt n \Delta / \sigma_d}| > t_{n-1,\,1-\alpha/2}) = 1 - \beta

    It depends on the spread of the differences, not on their mean, so it is not "observed power", which only says the
    p value again. But a spread seen in few seeds is itself uncertain: that of 5 seeds may be 0.35 to 1.67 times the
    true one (95 %), of 10 seeds 0.55 to 1.45 times.

    Args:
        deviation: standard deviation of the paired differences, positive.
        seeds: number of pairs, at least two.
        level: of the test, in (0, 1). Among m pairs under Holm's correction pass ``level / m``: conservative.
        power: the chance, above the level and below 1.

    Returns:
        The difference with what it rests on.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> print(f"{detectable_difference(1.0, 10).difference:.3f}")
        0.996

    Source:
        Bloom, Minimum detectable effects, Evaluation Review 19, 1995, in its exact form.
    """
    _check(deviation, level, power)
    if seeds < 2:
        raise ValueError(f"a paired test needs at least two seeds, not {seeds}")
    return Detectable(_shift(seeds - 1, level, power) * deviation / math.sqrt(seeds), seeds, level, power)


def seeds_needed(difference: float, deviation: float, *, level: float = 0.05, power: float = 0.8) -> int:
    r"""How many paired seeds a two-sided t test needs to find a difference with a given chance.

    .. math:: \min\{n \ge 2:\ P(|T_{n-1,\,\sqrt n \Delta / \sigma_d}| > t_{n-1,\,1-\alpha/2}) \ge 1 - \beta\}

    Args:
        difference: the one to find; not zero.
        deviation: standard deviation of the paired differences, positive.
        level: of the test, in (0, 1). Among m pairs under Holm's correction pass ``level / m``: conservative.
        power: the chance, above the level and below 1.

    Returns:
        The number of seeds.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> seeds_needed(1.0, 1.0), seeds_needed(0.5, 1.0)
        (10, 34)

    Source:
        As :func:`paired_power`.
    """
    _check(deviation, level, power)
    if difference == 0:
        raise ValueError("no number of seeds finds a difference of zero")

    def enough(seeds: int) -> bool:
        return paired_power(difference, deviation, seeds, level=level) >= power

    few, many = 1, 2
    while not enough(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _power(shift: float, freedom: int, level: float) -> float:
    from scipy.stats import t

    critical = float(t.isf(level / 2, freedom))
    return 1 - noncentral_t_cdf(critical, freedom, shift) + noncentral_t_cdf(-critical, freedom, shift)


@lru_cache(maxsize=1024)
def _shift(freedom: int, level: float, power: float) -> float:
    # Power is even in the shift; the rising branch alone has one root.
    return root(lambda shift: _power(max(shift, 0.0), freedom, level) - power, 1.0, 1.0)


def _check(deviation: float, level: float, power: float | None = None) -> None:
    if not deviation > 0 or not math.isfinite(deviation):
        raise ValueError(f"the deviation must be positive and finite, not {deviation}")
    if not 0 < level < 1:
        raise ValueError(f"the level must be in (0, 1), not {level}")
    if power is not None and not level < power < 1:
        raise ValueError(f"the power must be above the level and below 1, not {power}")
