from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import Interval, Metric, mean_interval, mean_on_scale, median

finite = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


def test_interval_equals_scipys() -> None:
    values = [3.1, 2.7, 4.4, 3.9, 3.3]
    mean, half_width = mean_interval(values, 0.9)
    low, high = stats.t.interval(0.9, 4, loc=mean, scale=stats.sem(values))
    assert half_width is not None
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = random.Random(0)
    hits = 0
    for _ in range(2000):
        mean, half_width = mean_interval([generator.gauss(5.0, 2.0) for _ in range(3)])
        assert half_width is not None
        hits += abs(mean - 5.0) <= half_width
    assert 0.935 <= hits / 2000 <= 0.965  # three standard errors


def test_equal_values_have_no_spread_whatever_their_mean_rounds_to() -> None:
    assert mean_interval([85.34] * 3)[1] == 0.0


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert mean_interval([2.0]) == (2.0, None)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 1.0, 2.0], 2.0),
        ([1.0, 2.0, 3.0, 10.0], 2.5),
        ([1.0, 2.0, math.inf], 2.0),
        ([1.0, math.inf], math.inf),
        ([1.0, math.inf, math.inf, math.inf], math.inf),
    ],
)
def test_median_counts_infinity_as_a_value(values: list[float], expected: float) -> None:
    assert median(values) == expected


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_median_of_nothing_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        median(values)


@settings(deadline=None)
@given(st.lists(finite, min_size=2, max_size=8), finite)
def test_a_shift_moves_the_mean_and_not_its_width(values: list[float], shift: float) -> None:
    mean, half_width = mean_interval(values)
    moved, same = mean_interval([value + shift for value in values])
    assert moved == pytest.approx(mean + shift, abs=1e-6)
    assert same == pytest.approx(half_width, rel=1e-6, abs=1e-6)
    mirrored, same = mean_interval([-value for value in values])
    assert mirrored == pytest.approx(-mean)
    assert same == pytest.approx(half_width)


LOSS = Metric("loss", maximize=False, scale="log")


def test_the_mean_on_a_logarithmic_scale_is_geometric() -> None:
    interval = mean_on_scale([1.0, 2.0, 4.0], LOSS, 0.9)
    mean, half_width = mean_interval([0.0, math.log(2), math.log(4)], 0.9)
    assert half_width is not None
    low, high = math.exp(mean - half_width), math.exp(mean + half_width)
    assert interval == Interval(math.exp(mean), low, high, 0.9, "Student's t on logarithms")
    assert interval.estimate == pytest.approx(2.0)


def test_the_mean_on_a_linear_scale_is_the_mean() -> None:
    for metric in (Metric("accuracy %", maximize=True, resolution=0.5), replace(LOSS, scale="linear")):
        interval = mean_on_scale([1.0, 2.0, 6.0], metric)
        mean, half_width = mean_interval([1.0, 2.0, 6.0])
        assert half_width is not None
        assert interval == Interval(mean, mean - half_width, mean + half_width, 0.95, "Student's t")


def test_values_without_a_logarithm() -> None:
    assert mean_on_scale([0.0, 2.0], LOSS) == mean_on_scale([0.0, 2.0], replace(LOSS, scale="linear"))
    errors = replace(LOSS, resolution=1.0)
    assert mean_on_scale([0.0, 2.0], errors).estimate == pytest.approx(1.0)  # half an example, and two


def test_one_value_on_a_scale_has_no_limits() -> None:
    assert mean_on_scale([3.0], LOSS) == Interval(math.exp(math.log(3.0)), None, None, 0.95, "none")
    with pytest.raises(ValueError, match="at least one"):
        mean_on_scale([], LOSS)


def test_a_limit_beyond_all_numbers_is_infinite() -> None:
    interval = mean_on_scale([1.0, 1e9], LOSS, 0.999)
    assert (interval.low, interval.high) == (0.0, math.inf)


@pytest.mark.parametrize("rounds", [3, 5])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_the_mean_on_a_scale_is_covered_as_often_as_it_says(rounds: int, scale: str) -> None:
    generator = random.Random(rounds)
    draw = generator.gauss if scale == "linear" else generator.lognormvariate
    truth = 1.0 if scale == "linear" else math.e
    hits = 0
    for _ in range(2000):
        interval = mean_on_scale([draw(1.0, 0.5) for _ in range(rounds)], replace(LOSS, scale=scale))
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= truth <= interval.high
    assert abs(hits / 2000 - 0.95) <= 0.015  # three standard errors
