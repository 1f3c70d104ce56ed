"""Attribution of the difference between two recipes to the switches in which they differ: Shapley values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from valleys.lab.statistics.effect import detectable_difference
from valleys.lab.statistics.intervals import Scale, scale_of, standard_error, t_quantile
from valleys.lab.statistics.outcome import Metric
from valleys.lab.statistics.paired import least_difference

__all__ = ["Decomposition", "Effect", "decompose"]

MOST_SWITCHES = 5
"""Switches whose combinations are all run; of more, each is changed alone."""

_ROUNDING = 1e-13

Subset = frozenset[str]
Values = Mapping[Subset, Mapping[int, float | None]]


@dataclass(frozen=True)
class Effect:
    """An effect of a switch, averaged over units, on the metric's scale: of logarithms on a logarithmic one.

    Args:
        name: of the switch; of two with "x" between them for their interaction; "total".
        values: the effect in each unit.
        mean: over the units; None without a unit.
        half_width: half the width of the mean's interval; None below two units.
        confidence: coverage of the interval.
        detectable: the smallest contribution that so many units detect with 80 % power; None if unknown.
        diverges: for a switch, True if changing it makes a recipe diverge that does not without it.
    """

    name: str
    values: tuple[float, ...]
    mean: float | None
    half_width: float | None
    confidence: float
    detectable: float | None = None
    diverges: bool = False

    @property
    def significant(self) -> bool:
        """True if the interval excludes zero."""
        return self.mean is not None and self.half_width is not None and abs(self.mean) > self.half_width


@dataclass(frozen=True)
class Decomposition:
    """The difference between two recipes, shared out.

    Args:
        effects: one for each switch, in their order. With all recipes finished the effects add up to ``total``.
        total: last minus first.
        interactions: of each pair of switches; exploratory. Empty where each switch was changed alone.
        added, taken: where there are more than ``MOST_SWITCHES``: each switch added to the first recipe, and the
            loss where it is taken from the last. A switch's effect is then their mean; the effects do not add up.
        diverged: units that a recipe lost, of those which lost one.
        orders, of: orders in which the switches can be changed one after the other through finished recipes alone, over
            which the effects are averaged, and all orders.
        units: units that every recipe in use finished.
        scale: of the effects.
    """

    effects: tuple[Effect, ...]
    total: Effect
    interactions: tuple[Effect, ...]
    added: tuple[Effect, ...]
    taken: tuple[Effect, ...]
    diverged: Mapping[Subset, int]
    orders: int
    of: int
    units: tuple[int, ...]
    scale: Scale

    @property
    def rest(self) -> float:
        """Mean of the total that the switches' effects leave, 0 but for rounding where all combinations were run."""
        if self.total.mean is None:
            return 0.0
        return self.total.mean - fsum(effect.mean or 0.0 for effect in self.effects)


def designed(switches: Sequence[str]) -> list[Subset]:
    """Return the recipes to run, as sets of changed switches: the first recipe, those between, the last one.

    All of them for up to ``MOST_SWITCHES`` switches; of more, each switch added to the first recipe and each taken from
    the last.

    Example:
        >>> [sorted(changed) for changed in designed(["a", "b"])]
        [[], ['a'], ['b'], ['a', 'b']]
        >>> len(designed("abcdef"))
        14
    """
    count = len(switches)
    sizes: Sequence[int] = range(count + 1) if count <= MOST_SWITCHES else (0, 1, count - 1, count)
    return [frozenset(changed) for size in sizes for changed in itertools.combinations(switches, size)]


def decompose(values: Values, switches: Sequence[str], metric: Metric, *, level: float = 0.05) -> Decomposition:
    r"""Attribute the difference between the last and the first recipe to the switches.

    .. math:: \phi_i = \frac{1}{m!} \sum_{\pi} \left( v(S_\pi \cup \{i\}) - v(S_\pi) \right), \qquad
        \sum_i \phi_i = v(\text{all}) - v(\varnothing)

    where v is the test metric on its scale, and :math:`S_\pi` the switches changed before i in the order :math:`\pi`.
    Every unit (round or seed) gives one value of each effect; their means have simultaneous intervals by Student's t,
    the level shared by the m switches (Bonferroni), with a standard deviation of at least one test example's worth.

    A recipe that diverged in any unit is used in none, since what is left of it would be its luckier units: the effects
    are averaged over those orders that pass through none, and still add up.

    Args:
        values: test metric by unit of each recipe of ``designed``, by the set of its changed switches; None where it
            diverged.
        switches: their names, one or more, in the order of the effects.
        metric: scale and resolution of the values.
        level: chance that any switch without effect gets an interval that excludes zero, in (0, 1). Default: 0.05.

    Returns:
        The effects. Those without a value, since every order passes through a recipe that diverged, have the mean None.

    Raises:
        ValueError: a recipe is missing, there is no switch, or the level is out of its range.

    Example:
        >>> base, a, b, both = [{0: v, 1: v + 0.1} for v in (1.0, 3.0, 2.0, 6.0)]
        >>> recipes = {(): base, ("a",): a, ("b",): b, ("a", "b"): both}
        >>> values = {frozenset(changed): value for changed, value in recipes.items()}
        >>> difference = decompose(values, ["a", "b"], Metric("score", maximize=True))
        >>> effects = *difference.effects, difference.total, *difference.interactions
        >>> [(effect.name, round(effect.mean, 3)) for effect in effects]
        [('a', 3.0), ('b', 2.0), ('total', 5.0), ('a x b', 2.0)]

    Source:
        Shapley, A value for n-person games, 1953; interactions: Grabisch and Roubens, International Journal of Game
        Theory 28, 1999; leaving out orders: ours.
    """
    missing = [changed for changed in designed(switches) if changed not in values]
    if missing or not switches:
        raise ValueError(f"there must be switches and a recipe for each of their sets; missing: {missing}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), not {level}")
    lost = {changed: sum(value is None for value in runs.values()) for changed, runs in values.items()}
    diverged = {changed: count for changed, count in lost.items() if count}
    sound = {changed: runs for changed, runs in values.items() if changed not in diverged}
    units = sorted(set.intersection(*(set(runs) for runs in sound.values()))) if sound else []
    scale = scale_of(metric, [runs[unit] for runs in sound.values() for unit in units])  # type: ignore[misc]
    places = {changed: [scale.apply(runs[unit]) for unit in units] for changed, runs in sound.items()}  # type: ignore[arg-type]
    least = least_difference(metric.resolution, scale, list(places.values()))
    marked = {name for one in diverged for name in one if one - {name} in sound}
    largest = max((abs(place) for row in places.values() for place in row), default=0.0)
    rounding = _ROUNDING * max(largest, 1.0 if scale.log else 0.0)  # a logarithm has its value's rounding
    averager = _Averager(places, len(units), least, marked, rounding)
    every, none, shared = frozenset(switches), frozenset[str](), level / len(switches)
    total = averager.effect("total", [(every, none, 1.0)], level)
    if len(switches) > MOST_SWITCHES:
        ways = {name: ((frozenset({name}), none), (every, every - {name})) for name in switches}
        effects, added, removals = (
            tuple(
                averager.effect(name, [(*pairs[way], 1 / len(arms)) for way in arms], shared / divisor)
                for name, pairs in ways.items()
            )
            for arms, divisor in (((0, 1), 1), ((0,), 2), ((1,), 2))
        )
        return Decomposition(effects, total, (), added, removals, diverged, 0, 0, tuple(units), scale)
    orders = [order for order in itertools.permutations(switches) if averager.finished(_prefixes(order))]
    steps: dict[str, list[tuple[Subset, Subset, float]]] = {name: [] for name in switches}
    for order in orders:
        for name, (before, after) in zip(order, itertools.pairwise(_prefixes(order)), strict=True):
            steps[name].append((after, before, 1 / len(orders)))
    effects = tuple(averager.effect(name, steps[name], shared) for name in switches)
    interactions = tuple(averager.interaction(pair, switches, level) for pair in itertools.combinations(switches, 2))
    counts = len(orders), math.factorial(len(switches))
    return Decomposition(effects, total, interactions, (), (), diverged, *counts, tuple(units), scale)


@dataclass(frozen=True)
class _Averager:
    """Averages of differences between finished recipes."""

    places: Mapping[Subset, Sequence[float]]  # value of each unit on the scale, by finished recipe
    units: int
    least: float  # one test example's worth
    marked: Collection[str]  # switches that make a recipe diverge
    rounding: float  # sums of differences below it are rounding errors

    def finished(self, recipes: Sequence[Subset]) -> bool:
        return all(changed in self.places for changed in recipes)

    def effect(self, name: str, steps: Sequence[tuple[Subset, Subset, float]], level: float) -> Effect:
        """Average weighted differences ``(after, before, weight)`` over the units."""
        return self._mean(name, level, [({after: 1, before: -1}, weight) for after, before, weight in steps])

    def interaction(self, pair: tuple[str, str], switches: Sequence[str], level: float) -> Effect:
        """Average how much more two switches change together than alone, over sets of the others."""
        others = [name for name in switches if name not in pair]
        a, b = ({name} for name in pair)
        terms = []
        for size in range(len(others) + 1):
            weight = 1 / math.comb(len(others), size)  # every size counts alike
            for subset in map(frozenset, itertools.combinations(others, size)):
                signs = {subset | a | b: 1, subset | a: -1, subset | b: -1, subset: 1}
                if self.finished(list(signs)):
                    terms.append((signs, weight))
        weights = fsum(weight for _, weight in terms)
        return self._mean(" x ".join(pair), level, [(signs, weight / weights) for signs, weight in terms])

    def _mean(self, name: str, level: float, terms: Sequence[tuple[Mapping[Subset, int], float]]) -> Effect:
        diverges = name in self.marked
        if not terms or not self.units or not all(self.finished(list(signs)) for signs, _ in terms):
            return Effect(name, (), None, None, 1 - level, diverges=diverges)
        sums = [
            fsum(weight * sign * self.places[one][unit] for signs, weight in terms for one, sign in signs.items())
            for unit in range(self.units)
        ]
        values = tuple(value if abs(value) > self.rounding else 0.0 for value in sums)
        mean, n = fsum(values) / self.units, self.units
        if n < 2:
            return Effect(name, values, mean, None, 1 - level, diverges=diverges)
        deviation = max(standard_error(values) * math.sqrt(n), self.least)
        half_width = t_quantile(1 - level, n - 1) * deviation / math.sqrt(n)
        detectable = detectable_difference(deviation, n, level=level) if deviation else None
        return Effect(name, values, mean, half_width, 1 - level, detectable, diverges)


def _prefixes(order: Sequence[str]) -> list[Subset]:
    return [frozenset(order[:count]) for count in range(len(order) + 1)]
