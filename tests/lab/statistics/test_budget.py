from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valleys.lab.record import Record
from valleys.lab.search.candidates import select
from valleys.lab.statistics import BudgetPoint, Metric, budget_curve, mean_interval

Trial = tuple[float | None, float | None]

UP = Metric("accuracy %", maximize=True)
LOSS = Metric("loss", maximize=False, scale="log")

numbers = st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0])  # few, so that there are ties
trials = st.lists(st.tuples(numbers, numbers) | st.just((None, None)), min_size=1, max_size=6)


def by_all_subsets(tried: list[Trial], k: int, metric: Metric, worst: float) -> float:
    """The mean over all subsets of k trials, each chosen from as the lab chooses."""
    tests = []
    for subset in itertools.combinations(range(len(tried)), k):
        records = {i: Record("", {}, i, 1, 1, tried[i][0] is None, validation=tried[i][0]) for i in subset}
        winner = select(records, metric.maximize)
        test = worst if winner is None else tried[winner][1]
        assert test is not None
        tests.append(math.log(test) if metric.scale == "log" else test)
    return statistics.fmean(tests)


@settings(deadline=None)
@given(trials, st.booleans())
def test_the_curve_is_the_mean_over_all_subsets(tried: list[Trial], log: bool) -> None:
    metric = LOSS if log else UP
    tests = [test for _, test in tried if test is not None]
    curve = budget_curve([tried], metric)
    if not tests:
        assert curve == ()
        return
    worst = max(tests) if log else min(tests)
    assert [point.trials for point in curve] == list(range(1, len(tried) + 1))
    for point in curve:
        expected = by_all_subsets(tried, point.trials, metric, worst)
        assert point.mean == pytest.approx(math.exp(expected) if log else expected)
        assert (point.low, point.high) == (None, None)


@pytest.mark.parametrize("metric", [UP, LOSS], ids=["linear", "log"])
def test_the_band_is_students_over_rounds(metric: Metric) -> None:
    rounds: list[list[Trial]] = [
        [(1.0, 2.0), (4.0, 3.0), (2.0, 9.0)],
        [(3.0, 5.0), (None, None), (2.0, 4.0)],
        [(1.0, 1.0), (2.0, 7.0), (3.0, 6.0)],
    ]
    worst = 1.0 if metric.maximize else 9.0
    for point in budget_curve(rounds, metric):
        places = [by_all_subsets(trials, point.trials, metric, worst) for trials in rounds]
        mean, half_width = mean_interval(places)
        assert half_width is not None
        undo = math.exp if metric.scale == "log" else float
        expected = [undo(place) for place in (mean, mean - half_width, mean + half_width)]
        assert [point.mean, point.low, point.high] == pytest.approx(expected)


def test_a_diverged_trial_is_worst() -> None:
    trials: list[list[Trial]] = [[(None, None), (1.0, 60.0), (2.0, 80.0)]]
    assert [point.mean for point in budget_curve(trials, UP)] == pytest.approx([200 / 3, 220 / 3, 80.0])
    assert [point.mean for point in budget_curve(trials, UP, worst=0.0)] == pytest.approx([140 / 3, 220 / 3, 80.0])
    assert [point.mean for point in budget_curve([[(1.0, None), (2.0, 80.0)]], UP, 10.0)] == [45.0, 80.0]
    assert [point.mean for point in budget_curve([[(1.0, math.nan), (2.0, 80.0)]], UP, 10.0)] == [45.0, 80.0]


def test_a_worst_value_without_a_logarithm_makes_the_scale_linear() -> None:
    trials: list[list[Trial]] = [[(None, None), (1.0, 2.0)]]
    assert [point.mean for point in budget_curve(trials, LOSS, worst=-1.0)] == [0.5, 2.0]


def test_the_worst_of_all_rounds_stands_for_a_diverged_trial() -> None:
    trials: list[list[Trial]] = [[(None, None)], [(1.0, 60.0)]]
    (point,) = budget_curve(trials, UP)
    assert (point.mean, point.low, point.high) == (60.0, 60.0, 60.0)
    (point,) = budget_curve([[(None, None)], [(1.0, 4.0)], [(1.0, 9.0)]], LOSS)
    assert point.mean == pytest.approx((9 * 4 * 9) ** (1 / 3))


def test_the_shortest_round_ends_the_curve_and_no_trial_makes_none() -> None:
    assert len(budget_curve([[(1.0, 1.0)] * 3, [(1.0, 1.0)] * 2], UP)) == 2
    assert budget_curve([], UP) == budget_curve([[], []], UP) == budget_curve([[(1.0, 1.0)], []], UP) == ()
    assert budget_curve([[(None, None)]], UP, worst=1.0) == ()


def test_equal_validation_goes_to_the_earlier_trial() -> None:
    assert budget_curve([[(1.0, 10.0), (1.0, 30.0)]], UP)[1] == BudgetPoint(2, 10.0, None, None)
    assert budget_curve([[(1.0, 10.0), (1.0, 30.0)]], Metric("loss", maximize=False))[1].mean == 10.0
