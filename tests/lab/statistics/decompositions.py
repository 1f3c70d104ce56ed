"""Values of recipes, and what two test files ask of a decomposition."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

from valleys.lab.statistics import Metric
from valleys.lab.statistics.shapley import Effect, designed

Subset = frozenset[str]
Values = dict[Subset, dict[int, float | None]]

SCORE = Metric("score", maximize=True)
LOSS = Metric("loss", maximize=False, scale="log")
NONE = frozenset[str]()


def names(count: int) -> list[str]:
    return list("abcdefg"[:count])


def subsets(switches: Sequence[str]) -> list[Subset]:
    sizes = range(len(switches) + 1)
    return [frozenset(subset) for size in sizes for subset in itertools.combinations(switches, size)]


def table(switches: Sequence[str], response: Callable[[Subset, int], float | None], units: int = 3) -> Values:
    """Values of the recipes that are run, by unit from 1."""
    return {changed: {unit: response(changed, unit) for unit in range(1, units + 1)} for changed in designed(switches)}


def noise(switches: Sequence[str], seed: int, units: int = 3) -> Values:
    generator = random.Random(seed)
    return table(switches, lambda changed, unit: generator.uniform(1.0, 9.0), units)


def place(values: Values, unit: int, log: bool = False) -> dict[Subset, float]:
    """One unit's values on the scale, of recipes that finished."""
    values_of_unit = {changed: runs[unit] for changed, runs in values.items()}
    return {
        changed: math.log(value) if log else value for changed, value in values_of_unit.items() if value is not None
    }


def means(parts: Sequence[Effect]) -> list[float]:
    return [part.mean for part in parts if part.mean is not None]
