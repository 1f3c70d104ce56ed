"""Parts of a difference: against a second formula, against known answers, and how often their intervals are right."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence

import pytest
from scipy import stats

from lab.statistics.decompositions import LOSS, NONE, SCORE, Subset, Values, means, names, noise, place, subsets, table
from valleys.lab.statistics import Metric, detectable_difference
from valleys.lab.statistics.shapley import Decomposition, Effect, decompose


def shapley(switch: str, switches: Sequence[str], value: Mapping[Subset, float]) -> float:
    """The formula over sets, where the code goes through orders."""
    m = len(switches)
    return math.fsum(
        math.factorial(len(others))
        * math.factorial(m - len(others) - 1)
        / math.factorial(m)
        * (value[others | {switch}] - value[others])
        for others in subsets([name for name in switches if name != switch])
    )


def interaction(a: str, b: str, switches: Sequence[str], value: Mapping[Subset, float]) -> float:
    """Grabisch and Roubens: weights |S|! (m - |S| - 2)! / (m - 1)!."""
    m = len(switches)
    return math.fsum(
        math.factorial(len(others))
        * math.factorial(m - len(others) - 2)
        / math.factorial(m - 1)
        * (value[others | {a, b}] - value[others | {a}] - value[others | {b}] + value[others])
        for others in subsets([name for name in switches if name not in (a, b)])
    )


# --- the values of the parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [SCORE, LOSS], ids=["linear", "log"])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_parts_and_interactions_equal_the_formula_over_sets(m: int, metric: Metric) -> None:
    switches, log = names(m), metric.scale == "log"
    values = noise(switches, seed=m)
    parts = decompose(values, switches, metric)
    assert [part.name for part in parts.effects] == switches
    assert (parts.orders, parts.of, parts.units) == (math.factorial(m), math.factorial(m), (1, 2, 3))
    assert (parts.scale.log, parts.added, parts.taken, dict(parts.diverged)) == (log, (), (), {})
    for index, unit in enumerate(parts.units):
        value = place(values, unit, log)
        for part in parts.effects:
            assert part.values[index] == pytest.approx(shapley(part.name, switches, value), abs=1e-12)
        pairs = list(itertools.combinations(switches, 2))
        assert [part.name for part in parts.interactions] == [f"{a} x {b}" for a, b in pairs]
        for (a, b), part in zip(pairs, parts.interactions, strict=True):
            assert part.values[index] == pytest.approx(interaction(a, b, switches, value), abs=1e-12)
        change = value[frozenset(switches)] - value[NONE]
        assert parts.total.values[index] == pytest.approx(change, abs=1e-12)
        assert math.fsum(part.values[index] for part in parts.effects) == pytest.approx(change, abs=1e-12)
    for part in (*parts.effects, parts.total, *parts.interactions):
        assert part.mean == pytest.approx(math.fsum(part.values) / 3)
    assert parts.rest == pytest.approx(0.0, abs=1e-12)


def test_effects_that_add_up_are_recovered() -> None:
    effects = {"a": 2.0, "b": -0.5, "c": 0.25, "d": 0.0}
    parts = decompose(table("abcd", lambda changed, unit: unit + sum(effects[x] for x in changed)), "abcd", SCORE)
    assert means(parts.effects) == pytest.approx(list(effects.values()))
    assert means(parts.interactions) == pytest.approx([0.0] * 6)
    assert parts.total.mean == pytest.approx(1.75)


def test_of_an_interaction_each_of_the_two_gets_half() -> None:
    def response(changed: Subset, unit: int) -> float:
        return 10.0 * unit + 4.0 * (changed >= {"a", "c"}) + 1.0 * ("b" in changed)

    parts = decompose(table("abcd", response), "abcd", SCORE)
    assert means(parts.effects) == pytest.approx([2.0, 1.0, 2.0, 0.0])
    assert {part.name: part.mean for part in parts.interactions} == pytest.approx(
        {"a x b": 0.0, "a x c": 4.0, "a x d": 0.0, "b x c": 0.0, "b x d": 0.0, "c x d": 0.0}
    )


def test_a_switch_without_effect_gets_exactly_zero_and_equal_switches_get_equal_parts() -> None:
    generator = random.Random(0)
    luck = {(size, unit): generator.gauss(80, 3) for size in range(4) for unit in (1, 2, 3)}
    values = table("abcd", lambda changed, unit: luck[len(changed - {"d"}), unit])
    parts = decompose(values, "abcd", SCORE)
    a, b, c, dummy = parts.effects
    assert (dummy.values, dummy.mean, dummy.half_width, dummy.significant) == ((0.0,) * 3, 0.0, 0.0, False)
    assert [part.values for part in parts.interactions if "d" in part.name] == [(0.0,) * 3] * 3
    assert a.values == pytest.approx(b.values)
    assert a.values == pytest.approx(c.values)


def test_no_effect_at_all() -> None:
    parts = decompose(table("abc", lambda changed, unit: 7.0 * unit), "abc", SCORE)
    assert means([*parts.effects, parts.total, *parts.interactions]) == [0.0] * 7
    assert not any(part.significant for part in (*parts.effects, parts.total))
    assert [part.detectable for part in parts.effects] == [None] * 3


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_a_rounding_error_is_no_effect(size: float) -> None:
    values = table("abc", lambda changed, unit: size * (80.1 + unit + 2.1 * ("a" in changed) + 0.3 * ("b" in changed)))
    parts = decompose(values, "abc", SCORE)
    assert means(parts.interactions) == [0.0] * 3
    assert [part.significant for part in (*parts.effects, *parts.interactions)] == [True, True, *[False] * 4]
    small = table("ab", lambda changed, unit: size * (1 + 1e-9 * ("b" in changed)))
    assert [part.significant for part in decompose(small, "ab", SCORE).effects] == [False, True]


def test_the_order_of_the_switches_changes_nothing_but_the_order_of_the_parts() -> None:
    values = noise("abc", seed=3)
    forth, back = (decompose(values, order, SCORE) for order in ("abc", "cba"))
    assert {part.name: part.mean for part in forth.effects} == pytest.approx({p.name: p.mean for p in back.effects})


def test_on_a_logarithmic_scale_the_factors_multiply_to_the_total_factor() -> None:
    factors = {"a": 0.5, "b": 1.0, "c": 3.0}
    values = table("abc", lambda changed, unit: unit * math.prod(factors[name] for name in changed))
    parts = decompose(values, "abc", LOSS)
    ratios = [parts.scale.undo(mean) for mean in means(parts.effects)]
    assert ratios == pytest.approx(list(factors.values()))
    assert parts.total.mean is not None
    assert parts.scale.undo(parts.total.mean) == pytest.approx(math.prod(ratios)) == pytest.approx(1.5)


def test_a_value_without_logarithm_makes_the_scale_linear_or_counts_as_half_an_example() -> None:
    values: Values = {NONE: {1: 4.0, 2: 4.0}, frozenset("a"): {1: 0.0, 2: 2.0}}
    assert not decompose(values, "a", LOSS).scale.log
    errors = Metric("error %", maximize=False, scale="log", resolution=1.0)
    (part,) = decompose(values, "a", errors).effects
    assert part.values == pytest.approx((math.log(0.5 / 4.0), math.log(2.0 / 4.0)))


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_level_is_shared_by_the_switches_alone() -> None:
    values = noise("abc", seed=1, units=4)
    parts = decompose(values, "abc", SCORE, level=0.06)
    for part in parts.effects:
        low, high = stats.ttest_1samp(part.values, 0.0).confidence_interval(1 - 0.02)
        assert part.half_width == pytest.approx((high - low) / 2)
        assert part.confidence == pytest.approx(0.98)
        assert part.detectable == pytest.approx(detectable_difference(stats.tstd(part.values), 4, level=0.02))
    for part in (parts.total, *parts.interactions):
        low, high = stats.ttest_1samp(part.values, 0.0).confidence_interval(0.94)
        assert (part.confidence, part.half_width) == pytest.approx((0.94, (high - low) / 2))


def test_significant_is_an_interval_without_zero() -> None:
    part = Effect("a", (1.0, 3.0), 2.0, 1.9, 0.95)
    assert part.significant
    assert Effect("a", (), -2.0, 1.9, 0.95).significant
    assert not Effect("a", (), 2.0, 2.0, 0.95).significant
    assert not Effect("a", (1.0,), 2.0, None, 0.95).significant
    assert not Effect("a", (), None, None, 0.95).significant


def test_the_spread_is_at_least_one_test_example() -> None:
    values: Values = {NONE: {1: 90.0, 2: 91.0, 3: 92.0}, frozenset("a"): {1: 91.0, 2: 92.0, 3: 93.0}}
    coarse = Metric("accuracy %", maximize=True, resolution=0.5)
    half_width = stats.t.isf(0.025, 2) * 0.5 / math.sqrt(3)
    for part in (*decompose(values, "a", coarse).effects, decompose(values, "a", coarse).total):
        assert part.half_width == pytest.approx(half_width)
        assert not part.significant
        assert part.detectable == pytest.approx(detectable_difference(0.5, 3))
    (exact,) = decompose(values, "a", SCORE).effects
    assert (exact.half_width, exact.significant, exact.detectable) == (0.0, True, None)


def test_one_example_on_a_logarithmic_scale_is_that_of_the_smallest_recipe() -> None:
    errors = Metric("error %", maximize=False, scale="log", resolution=0.5)
    values: Values = {NONE: {1: 8.0, 2: 8.0}, frozenset("a"): {1: 2.0, 2: 2.0}}
    (part,) = decompose(values, "a", errors).effects
    assert part.half_width == pytest.approx(stats.t.isf(0.025, 1) * math.log1p(0.5 / 2.0) / math.sqrt(2))


def test_one_unit_has_values_and_no_interval_and_two_have_one() -> None:
    values = noise("ab", seed=0, units=1)
    one = decompose(values, "ab", SCORE)
    value = place(values, 1)
    assert means(one.effects) == pytest.approx([shapley(name, "ab", value) for name in "ab"])
    for part in (*one.effects, one.total, *one.interactions):
        assert (part.half_width, part.significant, part.detectable) == (None, False, None)
    two = decompose(noise("ab", seed=0, units=2), "ab", SCORE)
    assert all(part.half_width is not None for part in (*two.effects, two.total, *two.interactions))


def test_only_units_of_all_recipes_count() -> None:
    values = noise("ab", seed=5, units=4)
    del values[frozenset("a")][2]
    parts = decompose(values, "ab", SCORE)
    assert parts.units == (1, 3, 4)
    assert len(parts.total.values) == 3


# --- how often the intervals are right -------------------------------------------------------------------------------

RUNS = 2500
ERROR = 3 * math.sqrt(0.05 * 0.95 / RUNS)


def simulated(seed: int, effect: Callable[[Subset], float], units: int) -> list[Decomposition]:
    """Decompositions of normal values: luck that a round's recipes share, and luck of each run."""
    generator = random.Random(seed)
    decompositions = []
    for _ in range(RUNS):
        rounds = [generator.gauss(80.0, 5.0) for _ in range(units)]
        values = table("abc", lambda s, unit, r=rounds: r[unit - 1] + effect(s) + generator.gauss(0, 1), units)  # type: ignore[misc]
        decompositions.append(decompose(values, "abc", SCORE))
    return decompositions


@pytest.mark.parametrize("units", [2, 5])
def test_some_switch_is_called_significant_without_any_effect_as_often_as_the_level(units: int) -> None:
    decompositions = simulated(units, lambda changed: 0.0, units)
    false = sum(any(part.significant for part in parts.effects) for parts in decompositions) / RUNS
    assert 0.02 < false <= 0.05 + ERROR  # Bonferroni's bound, which dependence leaves below
    single = [sum(parts.effects[index].significant for parts in decompositions) / RUNS for index in range(3)]
    assert max(single) <= 0.05 / 3 + 3 * math.sqrt(0.05 / 3 / RUNS)
    assert abs(sum(parts.total.significant for parts in decompositions) / RUNS - 0.05) <= ERROR


def test_the_intervals_cover_all_true_effects_together() -> None:
    def effect(changed: Subset) -> float:
        return 3.0 * ("a" in changed) - 1.0 * ("b" in changed) + 2.0 * (changed >= {"b", "c"})

    truth = {"a": 3.0, "b": 0.0, "c": 1.0}
    decompositions = simulated(7, effect, 4)
    covered = [
        all(abs(part.mean - truth[part.name]) <= part.half_width for part in parts.effects)  # type: ignore[operator]
        for parts in decompositions
    ]
    assert 0.95 - ERROR <= sum(covered) / RUNS < 0.985
    assert sum(parts.effects[0].significant for parts in decompositions) / RUNS > 0.9
