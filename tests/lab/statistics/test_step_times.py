"""Times are compared only where the runs took turns."""

from __future__ import annotations

from lab_fakes import record
from valleys.lab.record import Record
from valleys.lab.statistics.cost import _SLACK, step_times


def runs(*ended: float | None) -> dict[int, Record]:
    return {unit: record(seed=7, ended=time, step_seconds=unit + 0.5) for unit, time in enumerate(ended)}


def test_runs_that_take_turns_are_compared() -> None:
    turns = {"a": runs(0.0, 100.0), "b": runs(50.0, 150.0), "c": runs(60.0, 90.0)}
    assert step_times(turns) == {name: {0: 0.5, 1: 1.5} for name in turns}


def test_the_largest_session_counts_whether_it_is_the_first_or_the_last() -> None:
    early, late = {"a": runs(0.0), "b": runs(1.0)}, {"c": runs(1e5)}
    assert list(step_times({**early, **late})) == ["a", "b"]
    assert list(step_times({**early, **late, "d": runs(1e5 + 1), "e": runs(1e5)})) == ["c", "d", "e"]


def test_a_long_run_joins_what_it_spans() -> None:
    assert list(step_times({"a": runs(0.0, 1e6), "b": runs(1.0), "c": runs(9e5)})) == ["a", "b", "c"]


def test_one_unit_each_one_after_the_other_is_one_session() -> None:
    assert list(step_times({name: runs(number * _SLACK) for number, name in enumerate("abc")})) == ["a", "b", "c"]
    assert list(step_times({"a": runs(0.0), "b": runs(2.1 * _SLACK)})) == ["a"]


def test_times_from_before_ends_were_recorded_and_optimizers_without_runs() -> None:
    assert list(step_times({"a": runs(None, None), "b": runs(5.0), "c": {}})) == ["a", "b"]
    assert step_times({"a": {}}) == step_times({}) == {}
