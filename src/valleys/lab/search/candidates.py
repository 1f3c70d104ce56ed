"""Candidate points of a search space, and the selection of the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from valleys.lab.record import Record

if TYPE_CHECKING:
    from valleys.lab.optimizers.spec import Range

TUNING_SEED = 0
"""Seed of every tuning run: all optimizers start from the same weights and see the same order of the data."""

FIRST_SEED = 1000
"""The fresh seeds count from here, far from the tuning seed."""

FIXED = 0
"""Number of the only point of an optimizer with nothing to tune."""

_EDGE = 0.05  # share of a range, at either end, in which a chosen value suggests that the range was too narrow


def points(space: Mapping[str, Range], trials: int, seed: int = TUNING_SEED) -> list[dict[str, float]]:
    r"""Quasi-random points of a search space: a scrambled Sobol sequence.

    .. math:: x = a (b/a)^u \text{ on a logarithmic range } [a, b],\quad x = a + (b-a) u \text{ otherwise}

    The points ``u`` of the unit cube depend on the number of dimensions and on ``seed`` alone, so optimizers
    with equally many hyperparameters search the same points; more trials extend the sequence unchanged.

    Example:
        >>> from valleys.lab.optimizers.spec import Range
        >>> space = {"lr": Range(1e-4, 1.0)}
        >>> points(space, 2) == points(space, 8)[:2]
        True
    """
    from scipy.stats import qmc

    if not space:
        return [{}]
    # A power of two keeps the sequence balanced, and scipy quiet; its beginning depends on no length.
    cube = qmc.Sobol(len(space), scramble=True, rng=seed).random_base2((trials - 1).bit_length())
    return [
        {name: _value(ranges, float(u)) for (name, ranges), u in zip(space.items(), row, strict=True)}
        for row in cube[:trials]
    ]


def select(records: Mapping[int, Record], maximize: bool) -> int | None:
    """Return the trial with the best final validation metric, the lowest number of ties; None if all diverged."""
    sign = -1.0 if maximize else 1.0
    scores = [
        (sign * record.validation, number)
        for number, record in records.items()
        if not record.diverged and record.validation is not None and math.isfinite(record.validation)
    ]
    return min(scores)[1] if scores else None


def at_edge(hyperparameters: Mapping[str, float], space: Mapping[str, Range]) -> list[str]:
    """Return a phrase, ``lr = 0.98 (range 0.0001 to 1)``, for each chosen value near an end of its range."""
    return [
        f"{name} = {hyperparameters[name]:.3g} (range {ranges.low:g} to {ranges.high:g})"
        for name, ranges in space.items()
        if not _EDGE <= _position(ranges, hyperparameters[name]) <= 1 - _EDGE
    ]


def _value(ranges: Range, u: float) -> float:
    if ranges.log:
        value = ranges.low * math.pow(ranges.high / ranges.low, u)
    else:
        value = ranges.low + (ranges.high - ranges.low) * u
    return min(max(value, ranges.low), ranges.high)  # rounding must not step over an end


def _position(ranges: Range, value: float) -> float:
    if ranges.low == ranges.high:
        return 0.5
    if ranges.log:
        return math.log(value / ranges.low) / math.log(ranges.high / ranges.low)
    return (value - ranges.low) / (ranges.high - ranges.low)
