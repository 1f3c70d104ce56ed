"""Numbers as text, with the digits that their interval leaves meaningful."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from valleys.lab.statistics.intervals import Interval

__all__ = ["format_mean"]

_WIDE = 2.0  # limits further apart than this ratio have digits of their own


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
    places = 2 if half_width == 0 else min(max(1 - math.floor(math.log10(half_width)), 0), 4)
    return f"{mean:.{places}f} ± {half_width:.{places}f}"


def format_interval(limits: Interval | None) -> str:
    """Format an estimate and its limits, as far as they exist; a dash for None.

    Example:
        >>> from valleys.lab.statistics import Interval
        >>> format_interval(Interval(97.1234, 96.7778, 97.469, 0.95, "Student's t"))
        '97.12 (96.78 to 97.47)'
        >>> format_interval(Interval(0.03192, 0.0051, 0.2048, 0.95, "Student's t on logarithms"))
        '0.0319 (0.0051 to 0.205)'
        >>> format_interval(Interval(97.1234, None, None, 0.95, "none")), format_interval(None)
        ('97.12', '-')
    """
    if limits is None:
        return "-"
    low, high = limits.low, limits.high
    if low is None or high is None:
        return f"{limits.estimate:.4g}"
    values = [limits.estimate, low, high]
    if 0 < _WIDE * low < high or not all(map(math.isfinite, values)):
        words = [f"{value:.3g}" for value in values]
    elif high - low <= 1e-9 * abs(high):
        words = [f"{limits.estimate:.4g}"] * 3
    else:
        places = decimals(limits.estimate, [low, high]) + 1
        words = [fixed(value, places) for value in values]
    return "{} ({} to {})".format(*words)


def decimals(estimate: float, limits: Sequence[float]) -> int:
    """Return how many decimals an estimate and its limits need, enough to show that a limit is not 0.

    Example:
        >>> decimals(0.4123, [0.1012, 0.7234]), decimals(0.4123, [0.0212, 0.8034])
        (1, 2)
    """
    widths = [abs(limit - estimate) for limit in limits if limit != estimate]
    width = min(widths, default=abs(estimate) / 10)
    places = max(0, 1 - math.floor(math.log10(width / 0.3))) if width else 0
    for _ in range(3):
        places += any(limit and not round(limit, places) for limit in limits)
    return places


def fixed(value: float, places: int) -> str:
    """Return a number with so many decimals; in powers of ten where these are many."""
    if places > 6 or abs(value) >= 1e7:
        return f"{value:.2g}"
    return f"{round(value, places) + 0.0:.{places}f}"  # + 0.0: no minus before zero


def ratios(estimate: float, limits: Sequence[float]) -> list[str]:
    """Return a ratio and its limits, as far as their interval leaves digits meaningful.

    Example:
        >>> ratios(0.2312, [0.1112, 0.4812]), ratios(1.0031, [0.9981, 1.0082])
        (['0.23', '0.11', '0.48'], ['1.003', '0.998', '1.008'])
    """
    values = [estimate, *limits]
    if limits and 0 < max(values) < _WIDE * min(values):
        places = decimals(estimate, [value for value in limits if value != estimate] or [estimate * 1.1])
        while places < 6 and any(limit != 1 and round(limit, places) == 1 for limit in limits):
            places += 1
        return [fixed(value, places) for value in values]
    return [about(value) for value in values]


def about(value: float) -> str:
    """Return two digits of a number, more where it would read 1 and is not.

    Example:
        >>> about(1.4567), about(123.4), about(0.0321), about(0.9987), about(float("inf"))
        ('1.5', '123', '0.032', '0.999', 'infinity')
    """
    if math.isinf(value):
        return "infinity"
    if 100 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return next((text for digits in range(2, 6) if (text := f"{value:.{digits}g}") != "1"), "1")
