"""Axes: from numbers to places, and back to words."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Scale", "number", "scale", "words"]

_LARGEST = sys.float_info.max
_PADDING = 0.04  # share of the range left free at either end, so that no mark sits on the frame


@dataclass(frozen=True)
class Scale:
    """An axis.

    Args:
        low, high: the numbers at its ends, ``low < high``.
        start, end: their places.
        log: whether equal ratios are equally long.
        ticks: the numbers to be labelled.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return the place of a finite number, positive on a logarithmic axis."""
        return self.start + (self.end - self.start) * _share(self.low, self.high, value, self.log)


def scale(values: Iterable[float], start: float, end: float, *, log: bool = False, count: int = 5) -> Scale:
    """Make an axis from ``start`` to ``end``, a little longer than the values (finite, at least one) need.

    Example:
        >>> axis = scale([0.0, 100.0], 0, 10)
        >>> axis.ticks
        (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
        >>> axis(50.0)
        5.0
    """
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    if log:
        a, b = math.log10(low), math.log10(high)
        pad = (b - a) * _PADDING or 0.3
        a, b = max(a - pad, -307.0), min(b + pad, 308.0)  # the powers must stay numbers
        return Scale(10**a, 10**b, start, end, True, decades(10**a, 10**b, count))
    # Halves first: the difference of the largest floats is no number.
    pad = (high / 2 - low / 2) * 2 * _PADDING
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        pad = abs(high) * 0.05 or 1.0
        return Scale(low - pad, high + pad, start, end, False, (high,))
    low, high = max(low - pad, -_LARGEST), min(high + pad, _LARGEST)
    return Scale(low, high, start, end, False, nice(low, high, count))


def nice(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return about ``count`` round numbers between two: multiples of 1, 2 or 5 times a power of ten.

    Example:
        >>> nice(0.0, 1.0)
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        >>> nice(-2.1e-7, 2.1e-7, 4)
        (-2e-07, -1e-07, 0.0, 1e-07, 2e-07)
    """
    power = 10.0 ** math.floor(math.log10(high / count - low / count))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first <= count:
            break
    return tuple(float(f"{k * step:.12g}") for k in range(first, last + 1))


def decades(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return round numbers on a logarithmic axis: powers of ten; multiples, or what ``nice`` gives, where they are few.

    Example:
        >>> decades(1e-4, 1.0)
        (0.0001, 0.001, 0.01, 0.1, 1.0)
        >>> decades(3.0, 40.0)
        (5.0, 10.0, 20.0)
        >>> decades(10.0, 12.0, 2)
        (10.0, 11.0, 12.0)
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [float(f"1e{k}") for k in range(max(first, -307), min(last, 308) + 1)]
    inside = [value for value in powers if low <= value <= high]
    if len(inside) >= 3:
        return tuple(inside[:: math.ceil(len(inside) / (count + 1))])
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        between = [m * power for power in powers if power < 1e307 for m in multiples]
        inside = [float(f"{value:.6g}") for value in between if low <= value <= high]
        if 3 <= len(inside) <= count + 1 or (len(inside) == 2 and high > 10 * low):
            return tuple(inside)
    return tuple(value for value in nice(low, high, count) if value > 0)


def words(ticks: Sequence[float]) -> list[str]:
    """Return a label for each number of an axis.

    Example:
        >>> words([0.0, 0.5, 1.0])
        ['0', '0.5', '1']
        >>> words([1e-7, 1.5e-7])
        ['1e-7', '1.5e-7']
        >>> words([20000.0, 1000000.0])
        ['20000', '1e6']
    """
    return [_short(f"{value:.6g}" if 1e-4 <= abs(value) < 1e6 else f"{value:.3g}") for value in ticks]


def number(value: float | None, digits: int = 4) -> str:
    """Format a number as a table shows it: a dash for None, the sign for infinity.

    Example:
        >>> number(0.123456), number(None), number(math.inf), number(3.2e-7), number(16384.0, 3)
        ('0.1235', '-', '∞', '3.2e-7', '16384')
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    whole = float(value).is_integer() and abs(value) < 1e15
    return str(int(value)) if whole else _short(f"{value:.{digits}g}")


def _share(low: float, high: float, value: float, log: bool) -> float:
    if log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    # Divided first: differences of the largest floats are no numbers.
    width = high / 2 - low / 2
    return (value / 2 - low / 2) / width


def _short(text: str) -> str:
    """Shorten ``1e-07`` to ``1e-7``, ``1e+06`` to ``1e6``."""
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text
