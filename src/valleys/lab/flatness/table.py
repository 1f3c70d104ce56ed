"""From the measurements of single runs to means, intervals, and what E changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from valleys.lab.flatness.measure import MEASURES
from valleys.lab.statistics import mean_interval
from valleys.lab.store.job import Key

__all__ = ["Contrast", "FlatRow", "Flatness", "tabulate"]

Found = Mapping[str, Any]


@dataclass(frozen=True)
class FlatRow:
    """An optimizer's flatness.

    Args:
        optimizer: its name.
        runs: how many of its runs were measured.
        means: mean and half width of the 95 % interval over the seeds, by measure.
    """

    optimizer: str
    runs: int
    means: Mapping[str, tuple[float, float | None]]


@dataclass(frozen=True)
class Contrast:
    """A measure of an adapted optimizer as a multiple of its base's, seed by seed.

    Args:
        adapted, base: the optimizers.
        measure: which measure.
        ratio: the geometric mean of the ratios over the seeds.
        low, high: its 95 % interval; None with one seed.
        pairs: seeds that both have.
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
    """What the finished runs of a comparison are like.

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
    found: Mapping[str, Mapping[Key, Found]],
    chosen: Mapping[str, int | None],
    pairs: Sequence[tuple[str, str]],
    measures: Mapping[str, str] = MEASURES,
) -> Flatness | None:
    r"""Average over the seeds, and compare pairs seed by seed.

    .. math:: \exp\left( \overline{\log a_s - \log b_s} \pm t \, s / \sqrt n \right)

    Args:
        found: the measurements, by optimizer and run.
        chosen: the point whose runs count, by optimizer.
        pairs: adapted optimizer and base.
        measures: which of the values, with their names in tables; default: all that ``measure`` gives. Those that some
            run lacks are left out.

    Returns:
        The table; None if nothing was measured.
    """
    runs = {
        name: {key.seed: values for key, values in held.items() if key.point == chosen.get(name)}
        for name, held in found.items()
    }
    runs = {name: held for name, held in runs.items() if held}
    if not runs:
        return None
    every = [values for held in runs.values() for values in held.values()]
    shared = {name: title for name, title in measures.items() if all(name in values for values in every)}
    rows = tuple(
        FlatRow(
            name,
            len(held),
            {measure: mean_interval([values[measure] for values in held.values()]) for measure in shared},
        )
        for name, held in runs.items()
    )
    contrasts = tuple(
        contrast
        for adapted, base in pairs
        if adapted in runs and base in runs
        for measure in shared
        if (contrast := _contrast(adapted, base, measure, runs)) is not None
    )
    told = tuple(dict.fromkeys(values["note"] for values in every if values.get("note")))
    return Flatness(shared, rows, contrasts, tuple(sorted({values["examples"] for values in every})), told)


def _contrast(adapted: str, base: str, measure: str, runs: Mapping[str, Mapping[int, Found]]) -> Contrast | None:
    seeds = [seed for seed in runs[adapted] if seed in runs[base]]
    sides = [(runs[adapted][seed][measure], runs[base][seed][measure]) for seed in seeds]
    if not sides or not all(0 < value < math.inf for side in sides for value in side):
        return None
    center, half = mean_interval([math.log(one / other) for one, other in sides])
    low, high = (None, None) if half is None else (math.exp(center - half), math.exp(center + half))
    return Contrast(adapted, base, measure, math.exp(center), low, high, len(sides))
