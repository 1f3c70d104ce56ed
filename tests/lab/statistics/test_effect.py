from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import Interval, detectable_difference, effect, hedges_g, mean_interval

samples = st.lists(st.floats(-100, 100).map(lambda value: round(value, 2)), min_size=3, max_size=8)


def smallest(deviation: float, units: int, *, level: float = 0.05, power: float = 0.8) -> float:
    detectable = detectable_difference(deviation, units, level=level, power=power)
    assert detectable is not None
    return detectable


@settings(deadline=None, max_examples=30)
@given(samples, st.floats(0.01, 100.0), st.randoms(use_true_random=False))
def test_neither_the_unit_nor_the_order_moves_g(values: list[float], unit: float, generator: random.Random) -> None:
    g = hedges_g(values)
    moved = hedges_g(generator.sample([unit * value for value in values], len(values)))
    assert g is not None
    assert moved is not None
    if np.std(values) > 1e-3:  # below, what is left of the spread is rounding
        assert moved.estimate == pytest.approx(g.estimate, rel=1e-6, abs=1e-6)


def test_g_by_hand() -> None:
    # Differences 1 2 3: mean 2, deviation 1; J with 2 degrees of freedom is 1 / Gamma(1/2).
    effect = hedges_g([1.0, 2.0, 3.0])
    assert effect is not None
    assert effect.estimate == pytest.approx(2 / math.sqrt(math.pi))
    assert effect.method == "noncentral t"
    ten = hedges_g([1.0, 2.0, 3.0] * 3 + [2.0])
    assert ten is not None
    assert ten.estimate == pytest.approx((1 - 3 / (4 * 9 - 1)) * 2 / np.std([1, 2, 3] * 3 + [2], ddof=1), rel=1e-3)


def test_g_is_unbiased() -> None:
    delta, size = 0.8, 5
    correction = hedges_g([1.0, 2.0, 3.0, 4.0, 5.0])
    assert correction is not None
    factor = correction.estimate / (3 / math.sqrt(2.5))
    d = np.random.default_rng(0).normal(delta, 1.0, (200_000, size))
    estimates = factor * d.mean(1) / d.std(1, ddof=1)
    assert abs(estimates.mean() - delta) < 4 * estimates.std() / math.sqrt(len(estimates))


@pytest.mark.parametrize(("delta", "size", "confidence"), [(0.0, 3, 0.95), (0.8, 5, 0.95), (2.0, 5, 0.8)])
def test_the_interval_of_g_covers_the_truth_as_often_as_it_says(delta: float, size: int, confidence: float) -> None:
    hits, runs = 0, 250
    for values in np.random.default_rng(size).normal(delta, 1.0, (runs, size)).tolist():
        effect = hedges_g(values, confidence)
        assert effect is not None
        assert effect.low is not None
        assert effect.high is not None
        hits += effect.low <= delta <= effect.high
    assert abs(hits / runs - confidence) <= 3 * math.sqrt(confidence * (1 - confidence) / runs)


def test_g_includes_zero_exactly_where_the_interval_of_the_mean_does() -> None:
    generator = random.Random(0)
    for _ in range(100):
        values = [generator.gauss(0.9, 1.0) for _ in range(5)]
        g, (mean, half_width) = hedges_g(values, 0.9), mean_interval(values, 0.9)
        assert g is not None
        assert g.low is not None
        assert g.high is not None
        assert half_width is not None
        assert (g.low <= 0 <= g.high) == (abs(mean) <= half_width)


def test_g_without_units_or_spread() -> None:
    assert hedges_g([1.0, 2.0]) is None
    assert hedges_g([0.0] * 3) == Interval(0.0, None, None, 0.95, "none")
    assert hedges_g([-1.0] * 3) == Interval(-math.inf, None, None, 0.95, "none")
    nearly = hedges_g([1.0, 1.0, 1.0 + 1e-15])
    assert nearly is not None
    assert (nearly.low, nearly.high) == (None, None)
    assert nearly.estimate > 1e13


@pytest.mark.parametrize("units", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("level", [0.05, 0.05 / 6])
def test_what_is_called_detectable_is_detected_as_often_as_said(units: int, level: float) -> None:
    d = np.random.default_rng(units).normal(smallest(0.7, units, level=level), 0.7, (20_000, units))
    detected = float((stats.ttest_1samp(d, 0.0, axis=1).pvalue < level).mean())
    assert abs(detected - 0.8) < 0.0095  # more than three standard errors


def test_the_detectable_difference_of_a_textbook() -> None:
    # G*Power, matched pairs, dz 0.5, two-sided 0.05, 34 pairs: power 0.8077775.
    assert smallest(1.0, 34, power=0.8077775) == pytest.approx(0.5, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-6, 1e6), st.integers(2, 50))
def test_more_units_detect_more_and_the_scale_does_not_matter(deviation: float, units: int) -> None:
    here = smallest(deviation, units)
    assert here == pytest.approx(deviation * smallest(1.0, units))
    assert smallest(deviation, units + 1) < here
    assert smallest(deviation, units, level=0.01) > here
    assert smallest(deviation, units, power=0.9) > here


def test_extremes_have_an_answer() -> None:
    normal = stats.norm.isf(0.025) + stats.norm.ppf(0.8)
    assert smallest(1.0, 10**6) == pytest.approx(normal / 1e3, rel=1e-5)
    tiny = math.sqrt(2) * smallest(1.0, 2, level=0.05 / 1e3)
    critical = stats.t.isf(0.05 / 2e3, 1)
    assert stats.nct.sf(critical, 1, tiny) + stats.nct.sf(critical, 1, -tiny) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 1, 0.05, 0.8), "two units"),
        ((0.0, 5, 0.05, 0.8), "deviation"),
        ((math.nan, 5, 0.05, 0.8), "deviation"),
        ((math.inf, 5, 0.05, 0.8), "deviation"),
        ((1.0, 5, 0.0, 0.8), "level"),
        ((1.0, 5, 0.05, 1.0), "power"),
        ((1.0, 5, 0.5, 0.4), "power"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: tuple[float, int, float, float], message: str) -> None:
    deviation, units, level, power = arguments
    with pytest.raises(ValueError, match=message):
        detectable_difference(deviation, units, level=level, power=power)


@settings(deadline=None, max_examples=50)
@given(st.floats(-50, 50).map(lambda t: round(t, 3)), st.integers(1, 40), st.sampled_from([0.025, 0.3, 0.5, 0.975]))
def test_the_noncentrality_undoes_the_distribution(t: float, freedom: int, probability: float) -> None:
    shift = effect._noncentrality(t, freedom, probability)
    assert shift is not None
    assert effect._cdf(t, freedom, shift) == pytest.approx(probability)


@pytest.mark.parametrize(("t", "shift"), [(-12.7, 8.0), (-5.0, 30.0), (0.0, 50.0), (1.0, -50.0), (12.7, 44.0)])
@pytest.mark.parametrize("freedom", [1, 4])
def test_the_noncentral_t_is_that_of_simulated_numbers(t: float, shift: float, freedom: int) -> None:
    generator = np.random.default_rng(0)
    chi = np.sqrt(generator.chisquare(freedom, 100_000) / freedom)
    simulated = float((generator.normal(shift, 1.0, 100_000) <= t * chi).mean())
    assert effect._cdf(t, freedom, shift) == pytest.approx(simulated, abs=0.005)


def test_where_the_noncentral_t_is_not_a_number_there_is_no_answer() -> None:
    assert math.isnan(effect._cdf(1e6, 4, 9e5))
    assert effect._noncentrality(1e6, 4, 0.5) is effect._noncentrality(-1e6, 4, 0.5) is None
    g = hedges_g([1e6, 1e6, 1e6 + 1.0])
    assert g is not None
    assert (g.low, g.high, g.method) == (None, None, "none")
    assert g.estimate > 9e5


def test_a_root_far_from_the_start_is_found() -> None:
    assert effect._root(lambda x: x - 1e6, 0.0, 1.0) == pytest.approx(1e6)
    assert effect._root(lambda x: x + 1e6, 0.0, 1.0) == pytest.approx(-1e6)
    assert effect._root(lambda x: math.nan if x > 3 else x - 1e6, 0.0, 1.0) is None
