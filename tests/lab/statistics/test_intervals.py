from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import Interval, bootstrap_interval, mean_interval, median

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


def covered(statistic: Literal["mean", "median"], samples: Sequence[Sequence[float]], truth: float) -> float:
    """How often the bootstrap's interval holds the truth."""
    hits = 0
    for seed, values in enumerate(samples):
        found = bootstrap_interval(list(values), statistic, seed=seed, resamples=399)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    return hits / len(samples)


@pytest.mark.parametrize(
    ("statistic", "size", "low", "high"),
    [
        # 0.93 and 0.94 with three standard errors to either side: nearly nominal with many values ...
        ("mean", 30, 0.905, 0.965),
        ("median", 30, 0.915, 0.97),
        # ... and well below 0.95 with few, as the docstring says: 0.73 and 0.83.
        ("mean", 3, 0.68, 0.78),
        ("mean", 5, 0.785, 0.87),
    ],
)
def test_bootstrap_covers_what_its_docstring_says(
    statistic: Literal["mean", "median"], size: int, low: float, high: float
) -> None:
    samples = np.random.default_rng(size).normal(7.0, 3.0, (600, size)).tolist()
    assert low <= covered(statistic, samples, 7.0) <= high


def test_bootstrap_follows_skew_where_students_interval_cannot() -> None:
    values = np.random.default_rng(0).lognormal(0.0, 1.5, 60).tolist()
    found = bootstrap_interval(values)
    assert found.method == "BCa"
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.estimate > 1.3 * (found.estimate - found.low)
    expected = stats.bootstrap((values,), np.mean, rng=0).confidence_interval
    assert (found.low, found.high) == (expected.low, expected.high)


def test_bootstrap_is_a_function_of_its_seed() -> None:
    values = [1.0, 2.5, 2.7, 4.0, 8.0, 8.3, 9.1, 11.7]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_bootstrap_uses_the_statistic_and_the_confidence_it_is_told() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 100.0, 5.0, 6.0]
    assert bootstrap_interval(values, "median").estimate == 4.0
    assert bootstrap_interval(values, "mean").estimate == pytest.approx(121 / 7)
    wide, narrow = bootstrap_interval(values, "median", 0.99), bootstrap_interval(values, "median", 0.5)
    assert wide.low is not None
    assert wide.high is not None
    assert narrow.low is not None
    assert narrow.high is not None
    assert wide.low < narrow.low <= 4.0 <= narrow.high < wide.high


def test_where_bca_is_not_defined_the_percentiles_stand_in() -> None:
    assert bootstrap_interval([2.0, 2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 0.95, "percentile")
    # The median of ties stays when any one value goes: its acceleration is 0/0.
    tied = bootstrap_interval([1.0, 2.0, 2.0, 2.0, 3.0], "median")
    assert (tied.method, tied.low, tied.high) == ("percentile", 1.0, 3.0)
    # A resampled median of 1 has chance P(B >= 3) = 0.058, B ~ Bin(5, 1/5): beyond 5 % to either side, within 10 %.
    assert bootstrap_interval([1.0, 2.0, 2.0, 2.0, 3.0], "median", 0.9).low == 1.0
    assert bootstrap_interval([1.0, 2.0, 2.0, 2.0, 3.0], "median", 0.8).low == 2.0


def test_one_value_says_nothing_about_its_spread() -> None:
    assert bootstrap_interval([2.0]) == Interval(2.0, None, None, 0.95, "none")


@pytest.mark.parametrize("values", [[], [1.0, math.inf], [math.nan]])
def test_bootstrap_refuses_what_it_cannot_resample(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite ones only"):
        bootstrap_interval(values)
    with pytest.raises(ValueError, match="'mean' or 'median'"):
        bootstrap_interval([1.0], "mode")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=25)
@given(st.lists(finite, min_size=1, max_size=8), st.sampled_from(["mean", "median"]))
def test_bootstrap_always_answers(values: list[float], statistic: Literal["mean", "median"]) -> None:
    found = bootstrap_interval(values, statistic, resamples=99)
    assert min(values) - 1e-6 <= found.estimate <= max(values) + 1e-6
    if len(values) > 1:
        assert found.low is not None
        assert found.high is not None
        assert min(values) - 1e-6 <= found.low <= found.high <= max(values) + 1e-6


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
