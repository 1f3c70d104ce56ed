from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valleys.lab.statistics import performance_profiles

NEVER = math.inf
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.0, 7.0, NEVER]), min_size=width, max_size=width),
        min_size=1,
        max_size=6,
    )
)


def named(table: list[list[float]]) -> dict[str, dict[str, float]]:
    return {f"task {i}": {f"optimizer {j}": time for j, time in enumerate(row)} for i, row in enumerate(table)}


HAND = {
    "x": {"a": 1.0, "b": 2.0, "c": NEVER},
    "y": {"a": 3.0, "b": 3.0, "c": 6.0},  # a tie: both are the fastest
    "z": {"a": NEVER, "b": NEVER, "c": NEVER},  # nobody
    "w": {"a": 10.0, "b": NEVER, "c": 5.0},
}


def test_a_profile_by_hand() -> None:
    profiles = performance_profiles(HAND, tau_max=3.0)
    assert list(profiles) == ["a", "b", "c"]
    # Ratios: a 1 1 - 2, b 2 1 - -, c - 2 - 1.
    assert (profiles["a"].taus, profiles["a"].shares) == ((1.0, 2.0), (0.5, 0.75))
    assert (profiles["b"].taus, profiles["b"].shares) == ((1.0, 2.0), (0.25, 0.5))
    assert (profiles["c"].taus, profiles["c"].shares) == ((1.0, 2.0), (0.25, 0.5))
    # From 1 to 3: (0.5 + 0.75) / 2 and (0.25 + 0.5) / 2.
    assert [profiles[name].area for name in "abc"] == pytest.approx([0.625, 0.375, 0.375])


def test_a_profile_is_a_step_function_continuous_from_the_right() -> None:
    a = performance_profiles(HAND)["a"]
    assert [a.at(tau) for tau in (0.5, 1.0, 1.999, 2.0, 1e9)] == [0.0, 0.5, 0.5, 0.75, 0.75]
    assert a.tau_max == 4.0


def test_the_area_ends_at_tau_max_and_the_steps_do_not() -> None:
    profiles = performance_profiles({"x": {"a": 1.0, "b": 8.0}})
    assert (profiles["a"].area, profiles["b"].area) == (1.0, 0.0)
    assert (profiles["b"].taus, profiles["b"].shares) == ((1.0, 8.0), (0.0, 1.0))
    assert performance_profiles({"x": {"a": 1.0, "b": 8.0}}, tau_max=15.0)["b"].area == 0.5


def test_a_task_nobody_solved_lowers_all_alike() -> None:
    solved = {task: row for task, row in HAND.items() if task != "z"}
    with_it, without = performance_profiles(HAND), performance_profiles(solved)
    assert [with_it[name].area for name in "abc"] == pytest.approx([without[name].area * 3 / 4 for name in "abc"])
    assert performance_profiles({"z": HAND["z"]})["a"].shares == (0.0,)


@settings(deadline=None)
@given(tables)
def test_the_area_is_the_mean_of_the_steps(table: list[list[float]]) -> None:
    grid = np.linspace(1.0, 4.0, 3001)
    for profile in performance_profiles(named(table)).values():
        assert profile.area == pytest.approx(np.mean([profile.at(tau) for tau in grid]), abs=3e-3)
        assert list(profile.taus) == sorted(set(profile.taus))
        assert list(profile.shares) == sorted(profile.shares)


@settings(deadline=None)
@given(tables, st.data())
def test_neither_order_nor_the_unit_of_a_task_matters(table: list[list[float]], data: st.DataObject) -> None:
    times = named(table)
    tasks = data.draw(st.permutations(list(times)))
    optimizers = data.draw(st.permutations(list(times["task 0"])))
    units = {task: data.draw(st.sampled_from([0.25, 1.0, 8.0])) for task in tasks}
    renamed = {task: {name: units[task] * times[task][name] for name in optimizers} for task in tasks}
    assert performance_profiles(renamed) == performance_profiles(times)


@settings(deadline=None)
@given(tables)
def test_some_optimizer_is_the_fastest_wherever_anyone_arrives(table: list[list[float]]) -> None:
    solved = sum(min(row) < NEVER for row in table) / len(table)
    assert sum(profile.at(1.0) for profile in performance_profiles(named(table)).values()) >= solved - 1e-12


@pytest.mark.parametrize(
    ("times", "tau_max", "message"),
    [
        ({}, 4.0, "at least one task"),
        ({"x": {}}, 4.0, "at least one task"),
        ({"x": {"a": 1.0}, "y": {"a": 1.0, "b": 2.0}}, 4.0, "other optimizers than the first: \\['b'\\]"),
        ({"x": {"a": 1.0, "b": 0.0}}, 4.0, "positive"),
        ({"x": {"a": 1.0, "b": math.nan}}, 4.0, "positive"),
        ({"x": {"a": 1.0}}, 1.0, "tau_max"),
        ({"x": {"a": 1.0}}, NEVER, "tau_max"),
    ],
)
def test_what_has_no_profile_is_refused(times: dict[str, dict[str, float]], tau_max: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        performance_profiles(times, tau_max=tau_max)
