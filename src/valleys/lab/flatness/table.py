"""Flatness of single runs as means, intervals, and ratios of an adapted optimizer to its base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from valleys.lab.flatness.measure import MEASURES
from valleys.lab.statistics import mean_interval
from valleys.lab.store.job import Key

__all__ = ["Contrast", "FlatRow", "Flatness", "tabulate"]

_Values = Mapping[str, Any]


@dataclass(frozen=True)
class FlatRow:
    """An optimizer's flatness: mean and half width of the 95 % interval over its measured runs, by measure."""

    optimizer: str
    runs: int
    means: Mapping[str, tuple[float, float | None]]


@dataclass(frozen=True)
class Contrast:
    """A measure of an adapted optimizer as a multiple of its base's: the geometric mean over the seeds that both have.

    ``low`` and ``high`` are its 95 % interval, None with one seed.
    """

    adapted: str
    base: str
    measure: str
    ratio: float
    low: float | None
    high: float | None
    pairs: int


@dataclass(frozen=True)
class Flatness:
    """The flatness of a comparison's finished runs.

    Args:
        measures: what was measured of every run, with its name in tables.
        rows: the optimizers that were measured.
        contrasts: E against its base, measure by measure, where all values are positive.
        examples: training examples of the loss that was measured.
        notes: what a reader should know.
    """

    measures: Mapping[str, str]
    rows: tuple[FlatRow, ...]
    contrasts: tuple[Contrast, ...]
    examples: tuple[int, ...]
    notes: tuple[str, ...] = ()


def tabulate(
    measured: Mapping[str, Mapping[Key, _Values]],
    chosen: Mapping[str, int | None],
    pairs: Sequence[tuple[str, str]],
    measures: Mapping[str, str] = MEASURES,
) -> Flatness | None:
    r"""Average over the seeds, and compare pairs seed by seed; None if nothing was measured.

    .. math:: \exp\left( \overline{\log a_s - \log b_s} \pm t \, s / \sqrt n \right)

    Args:
        measured: the measurements, by optimizer and run.
        chosen: the point whose runs count, by optimizer.
        pairs: adapted optimizer and base.
        measures: which of the values, with their names in tables; default: all that ``measure`` gives. Those that some
            run lacks are left out.

    Returns:
        The table.
    """
    runs = {
        name: {key.seed: values for key, values in seeds.items() if key.point == chosen.get(name)}
        for name, seeds in measured.items()
    }
    runs = {name: seeds for name, seeds in runs.items() if seeds}
    if not runs:
        return None
    every = [values for seeds in runs.values() for values in seeds.values()]
    shared = {name: title for name, title in measures.items() if all(name in values for values in every)}
    rows = tuple(
        FlatRow(
            name,
            len(seeds),
            {measure: mean_interval([values[measure] for values in seeds.values()]) for measure in shared},
        )
        for name, seeds in runs.items()
    )
    contrasts = tuple(
        contrast
        for adapted, base in pairs
        if adapted in runs and base in runs
        for measure in shared
        if (contrast := _contrast(adapted, base, measure, runs)) is not None
    )
    notes = tuple(dict.fromkeys(values["note"] for values in every if values.get("note")))
    return Flatness(shared, rows, contrasts, tuple(sorted({values["examples"] for values in every})), notes)


def _contrast(adapted: str, base: str, measure: str, runs: Mapping[str, Mapping[int, _Values]]) -> Contrast | None:
    seeds = [seed for seed in runs[adapted] if seed in runs[base]]
    sides = [(runs[adapted][seed][measure], runs[base][seed][measure]) for seed in seeds]
    if not sides or not all(0 < value < math.inf for side in sides for value in side):
        return None
    center, half = mean_interval([math.log(one / other) for one, other in sides])
    low, high = (None, None) if half is None else (math.exp(center - half), math.exp(center + half))
    return Contrast(adapted, base, measure, math.exp(center), low, high, len(sides))
