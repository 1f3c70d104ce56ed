"""Decompositions with gaps: recipes that diverged, more switches than combinations can be run, and mistakes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest

from lab.statistics.decompositions import NONE, SCORE, Values, means, names, noise, place, table
from valleys.lab.statistics.shapley import MOST_SWITCHES, decompose, designed

# --- recipes that diverged -------------------------------------------------------------------------------------------


def lossy(switches: Sequence[str], diverged: Sequence[str], unit: int = 2) -> Values:
    """Random values, of which some recipes lack one unit's."""
    values = noise(switches, seed=11)
    for changed in diverged:
        values[frozenset(changed)][unit] = None
    return values


def averaged(values: Values, switches: Sequence[str], unit: int) -> tuple[dict[str, float], int]:
    """Brute force: mean step of each switch over the orders through recipes that finished every unit."""
    sound = {changed for changed, runs in values.items() if None not in runs.values()}
    value = place(values, unit)
    steps: dict[str, list[float]] = {name: [] for name in switches}
    for order in itertools.permutations(switches):
        path = [frozenset(order[:length]) for length in range(len(order) + 1)]
        if sound >= set(path):
            for name, before, after in zip(order, path, path[1:], strict=False):
                steps[name].append(value[after] - value[before])
    count = len(steps[switches[0]])
    return {name: math.fsum(steps[name]) / count for name in switches} if count else {}, count


@pytest.mark.parametrize(
    ("switches", "diverged", "marked"),
    [
        ("abc", ["b"], "b"),
        ("abc", ["ab"], "ab"),
        ("abc", ["b", "ab", "bc"], "b"),
        ("abcd", ["a", "bc", "abd"], "abcd"),
        ("abcd", ["c"], "c"),
    ],
)
def test_a_recipe_that_diverged_once_is_left_out_and_the_parts_add_up(
    switches: str, diverged: list[str], marked: str
) -> None:
    values = lossy(switches, diverged)
    parts = decompose(values, switches, SCORE)
    assert parts.units == (1, 2, 3)
    assert parts.diverged == dict.fromkeys(map(frozenset, diverged), 1)
    for index, unit in enumerate(parts.units):
        expected, count = averaged(values, switches, unit)
        assert (parts.orders, parts.of) == (count, math.factorial(len(switches)))
        assert {part.name: part.values[index] for part in parts.effects} == pytest.approx(expected)
    assert parts.rest == pytest.approx(0.0, abs=1e-12)
    assert "".join(part.name for part in parts.effects if part.diverges) == marked
    assert not any(part.diverges for part in (parts.total, *parts.interactions))


def test_what_is_left_of_a_diverged_recipe_is_used_nowhere() -> None:
    values = lossy("ab", ["b"])
    result = decompose(values, "ab", SCORE)
    values[frozenset("b")] = {1: 1e9, 2: None, 3: -1e9}
    assert decompose(values, "ab", SCORE) == result
    base, a, both = (values[frozenset(changed)] for changed in ("", "a", "ab"))
    assert result.effects[0].values == pytest.approx([a[unit] - base[unit] for unit in (1, 2, 3)])  # type: ignore[operator]
    assert result.effects[1].values == pytest.approx([both[unit] - a[unit] for unit in (1, 2, 3)])  # type: ignore[operator]
    assert [part.mean for part in result.interactions] == [None]


def test_interactions_are_averaged_over_the_sets_that_are_left() -> None:
    values = lossy("abc", ["c"])
    parts = {part.name: part for part in decompose(values, "abc", SCORE).interactions}
    value = place(values, 1)

    def second(a: str, b: str, others: str) -> float:
        subset = frozenset(others)
        return value[subset | {a, b}] - value[subset | {a}] - value[subset | {b}] + value[subset]

    assert parts["a x b"].values[0] == pytest.approx(second("a", "b", ""))
    assert parts["a x c"].values[0] == pytest.approx(second("a", "c", "b"))
    assert parts["b x c"].values[0] == pytest.approx(second("b", "c", "a"))


@pytest.mark.parametrize("changed", ["", "abc"])
def test_without_the_first_or_the_last_recipe_no_part_has_a_value(changed: str) -> None:
    parts = decompose(lossy("abc", [changed]), "abc", SCORE)
    assert (parts.orders, parts.of, parts.total.mean) == (0, 6, None)
    assert [part.mean for part in parts.effects] == [None] * 3
    assert [part.significant for part in parts.effects] == [False] * 3
    assert [part.diverges for part in parts.effects] == [changed == "abc"] * 3
    assert parts.rest == 0.0
    assert len(means(parts.interactions)) == 3  # those of the other sets


def test_where_every_order_meets_a_diverged_recipe_the_total_alone_is_known() -> None:
    values = lossy("ab", ["a", "b"])
    parts = decompose(values, "ab", SCORE)
    assert (parts.orders, [part.mean for part in parts.effects]) == (0, [None, None])
    assert parts.total.values == pytest.approx(
        [place(values, u)[frozenset("ab")] - place(values, u)[NONE] for u in (1, 2, 3)]
    )
    assert [part.diverges for part in parts.effects] == [True, True]


def test_every_recipe_diverged() -> None:
    parts = decompose(table("ab", lambda changed, unit: None if unit < 3 else 1.0), "ab", SCORE)
    assert parts.diverged == dict.fromkeys(designed("ab"), 2)
    assert (parts.units, parts.orders, parts.total.mean) == ((), 0, None)
    assert [part.mean for part in (*parts.effects, *parts.interactions)] == [None] * 3
    assert not any(part.diverges for part in parts.effects)


# --- more switches than combinations can be run ----------------------------------------------------------------------


@pytest.mark.parametrize("m", [6, 7])
def test_many_switches_are_each_added_and_taken(m: int) -> None:
    switches = names(m)
    assert m > MOST_SWITCHES
    every = frozenset(switches)
    assert len(designed(switches)) == 2 * m + 2 < 2**m
    values = noise(switches, seed=m)
    parts = decompose(values, switches, SCORE)
    assert (parts.orders, parts.of, parts.interactions) == (0, 0, ())
    for index, unit in enumerate(parts.units):
        value = place(values, unit)
        for name, part, added, removal in zip(switches, parts.effects, parts.added, parts.taken, strict=True):
            assert part.name == added.name == removal.name == name
            assert added.values[index] == pytest.approx(value[frozenset({name})] - value[NONE])
            assert removal.values[index] == pytest.approx(value[every] - value[every - {name}])
            assert part.values[index] == pytest.approx((added.values[index] + removal.values[index]) / 2)
    assert {part.confidence for part in parts.effects} == {1 - 0.05 / m}
    assert {part.confidence for part in (*parts.added, *parts.taken)} == {1 - 0.05 / m / 2}
    assert parts.total.mean is not None
    assert parts.rest == pytest.approx(parts.total.mean - sum(means(parts.effects)))
    assert abs(parts.rest) > 1e-3


def test_of_many_switches_that_add_up_nothing_is_left() -> None:
    effects = dict(zip("abcdef", (1.0, -2.0, 0.0, 4.0, 0.5, 0.25), strict=True))
    parts = decompose(table("abcdef", lambda changed, unit: unit + sum(effects[x] for x in changed)), "abcdef", SCORE)
    assert means(parts.effects) == pytest.approx(list(effects.values()))
    assert parts.rest == pytest.approx(0.0, abs=1e-12)


def test_of_many_switches_one_that_diverges_has_no_part() -> None:
    parts = decompose(lossy("abcdef", ["b"]), "abcdef", SCORE)
    assert [part.name for part in parts.effects if part.mean is None] == ["b"]
    assert [part.name for part in parts.added if part.mean is None] == ["b"]
    assert len(means(parts.taken)) == 6
    assert [part.name for part in parts.effects if part.diverges] == ["b"]
    without = decompose(lossy("abcdef", ["acdef"]), "abcdef", SCORE)
    assert [part.name for part in without.taken if part.mean is None] == ["b"]
    assert not any(part.diverges for part in without.effects)


# --- what cannot be decomposed ---------------------------------------------------------------------------------------


def test_a_missing_recipe_is_refused() -> None:
    values = noise("ab", seed=0)
    del values[frozenset("b")]
    with pytest.raises(ValueError, match=r"missing: \[frozenset\({'b'}\)\]"):
        decompose(values, "ab", SCORE)
    with pytest.raises(ValueError, match="there must be switches"):
        decompose({NONE: {1: 1.0}}, [], SCORE)


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan])
def test_a_level_out_of_range_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level must be in"):
        decompose(noise("a", seed=0), "a", SCORE, level=level)
