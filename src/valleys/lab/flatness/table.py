"""Flatness of single runs as means, intervals, and ratios of one optimizer to another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from valleys.lab.flatness.measure import MEASURES
from valleys.lab.statistics.intervals import Interval, mean_on_scale
from valleys.lab.statistics.outcome import Metric

__all__ = ["Contrast", "FlatRow", "Flatness", "tabulate"]

_Values = Mapping[str, Any]
_LINEAR, _RATIO = Metric("", False), Metric("", False, "log")


@dataclass(frozen=True)
class FlatRow:
    """An optimizer's flatness: how many units were measured, and the mean over them by measure."""

    optimizer: str
    units: int
    means: Mapping[str, Interval]


@dataclass(frozen=True)
class Contrast:
    """A measure of an optimizer as a multiple of another's: the geometric mean over the units that both have."""

    first: str
    second: str
    measure: str
    ratio: Interval
    units: int


@dataclass(frozen=True)
class Flatness:
    """The flatness of a comparison's finished runs.

    Args:
        measures: what was measured of every run, with its name in tables.
        rows: the optimizers that were measured.
        contrasts: pairs of optimizers, measure by measure, where all values are positive.
        examples: training examples of the loss that was measured.
        notes: what a reader should know.
    """

    measures: Mapping[str, str]
    rows: tuple[FlatRow, ...]
    contrasts: tuple[Contrast, ...]
    examples: tuple[int, ...]
    notes: tuple[str, ...] = ()


def tabulate(
    measured: Mapping[str, Mapping[int, Sequence[_Values]]],
    pairs: Sequence[tuple[str, str]],
    measures: Mapping[str, str] = MEASURES,
) -> Flatness | None:
    r"""Average over the units (rounds, or fresh seeds), and compare pairs unit by unit; None if nothing was measured.

    .. math:: \exp\left( \overline{\log a_i - \log b_i} \pm t \, s / \sqrt n \right)

    Args:
        measured: the measurements of the runs that count, by optimizer and unit, whose value is the mean of its runs.
        pairs: optimizers to be compared, the first with the second.
        measures: which of the values, with their names in tables; default: all that ``measure`` gives. Those that some
            run lacks are left out.

    Returns:
        The table.

    Example:
        >>> runs = {"alto": {1: [{"trace": 3.0, "examples": 8}]}, "lamb": {1: [{"trace": 2.0, "examples": 8}]}}
        >>> table = tabulate(runs, [("alto", "lamb")])
        >>> [(contrast.measure, round(contrast.ratio.estimate, 3)) for contrast in table.contrasts]
        [('trace', 1.5)]
    """
    every = [values for units in measured.values() for runs in units.values() for values in runs]
    if not every:
        return None
    shared = {name: title for name, title in measures.items() if all(name in values for values in every)}
    means = {
        name: {
            unit: {measure: statistics.fmean(values[measure] for values in runs) for measure in shared}
            for unit, runs in units.items()
            if runs
        }
        for name, units in measured.items()
    }
    rows = tuple(
        FlatRow(
            name,
            len(units),
            {measure: mean_on_scale([unit[measure] for unit in units.values()], _LINEAR) for measure in shared},
        )
        for name, units in means.items()
        if units
    )
    contrasts = tuple(
        contrast
        for first, second in pairs
        for measure in shared
        if (contrast := _contrast(first, second, measure, means)) is not None
    )
    notes = tuple(dict.fromkeys(values["note"] for values in every if values.get("note")))
    return Flatness(shared, rows, contrasts, tuple(sorted({values["examples"] for values in every})), notes)


def _contrast(
    first: str, second: str, measure: str, means: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> Contrast | None:
    units = [unit for unit in means.get(first, {}) if unit in means.get(second, {})]
    sides = [(means[first][unit][measure], means[second][unit][measure]) for unit in units]
    if not sides or not all(0 < value < math.inf for side in sides for value in side):
        return None
    ratios = [one / other for one, other in sides]
    return Contrast(first, second, measure, mean_on_scale(ratios, _RATIO), len(ratios))
