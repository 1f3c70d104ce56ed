from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import detectable_difference, paired_power, seeds_needed
from valleys.lab.statistics.noncentral import noncentral_t_cdf, noncentrality, root


def found(difference: float, deviation: float, seeds: int, level: float) -> float:
    """How often simulated paired t tests find a difference."""
    d = np.random.default_rng(seeds).normal(difference, deviation, (20_000, seeds))
    return float((stats.ttest_1samp(d, 0.0, axis=1).pvalue < level).mean())


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("level", [0.05, 0.05 / 6])
def test_what_is_called_detectable_is_detected_as_often_as_said(seeds: int, level: float) -> None:
    smallest = detectable_difference(0.7, seeds, level=level)
    assert (smallest.seeds, smallest.level, smallest.power) == (seeds, level, 0.8)
    assert abs(found(smallest.difference, 0.7, seeds, level) - 0.8) < 0.0095  # more than three standard errors


@pytest.mark.parametrize(("difference", "seeds"), [(0.0, 4), (0.3, 4), (-1.0, 6), (2.5, 3)])
def test_power_equals_simulated_power(difference: float, seeds: int) -> None:
    assert abs(paired_power(difference, 1.0, seeds) - found(difference, 1.0, seeds, 0.05)) < 0.011


def test_power_of_a_textbook() -> None:
    # G*Power, matched pairs, dz 0.5, two-sided 0.05, power 0.8: 34 pairs, actual power 0.8077775.
    assert seeds_needed(0.5, 1.0) == 34
    assert paired_power(0.5, 1.0, 34) == pytest.approx(0.8077775, abs=1e-6)


def test_without_a_difference_power_is_the_level() -> None:
    assert paired_power(0.0, 1.0, 5, level=0.01) == pytest.approx(0.01)


@settings(deadline=None, max_examples=50)
@given(
    st.floats(0.05, 20.0), st.floats(0.1, 10.0), st.sampled_from([0.05, 0.005, 1e-4]), st.sampled_from([0.5, 0.8, 0.99])
)
def test_the_number_of_seeds_is_the_smallest_that_does(
    difference: float, deviation: float, level: float, power: float
) -> None:
    seeds = seeds_needed(-difference, deviation, level=level, power=power)
    assert paired_power(difference, deviation, seeds, level=level) >= power
    assert detectable_difference(deviation, seeds, level=level, power=power).difference <= difference * (1 + 1e-9)
    if seeds > 2:
        assert paired_power(difference, deviation, seeds - 1, level=level) < power


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-6, 1e6), st.integers(2, 50))
def test_more_seeds_see_more_and_the_unit_does_not_matter(deviation: float, seeds: int) -> None:
    here = detectable_difference(deviation, seeds).difference
    assert here == pytest.approx(deviation * detectable_difference(1.0, seeds).difference)
    assert detectable_difference(deviation, seeds + 1).difference < here
    assert detectable_difference(deviation, seeds, level=0.01).difference > here
    assert detectable_difference(deviation, seeds, power=0.9).difference > here


def test_extremes_have_an_answer() -> None:
    assert seeds_needed(1e9, 1.0) == 2
    normal = (stats.norm.isf(0.025) + stats.norm.ppf(0.8)) ** 2
    assert seeds_needed(1e-6, 1.0) == pytest.approx(normal * 1e12, rel=1e-5)
    tiny = detectable_difference(1.0, 2, level=0.05 / 1e6)
    assert paired_power(tiny.difference, 1.0, 2, level=tiny.level) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_power(1.0, 1.0, 1), "two seeds"),
        (lambda: detectable_difference(1.0, 1), "two seeds"),
        (lambda: paired_power(1.0, 0.0, 5), "deviation"),
        (lambda: detectable_difference(math.nan, 5), "deviation"),
        (lambda: seeds_needed(1.0, math.inf), "deviation"),
        (lambda: seeds_needed(0.0, 1.0), "difference of zero"),
        (lambda: seeds_needed(1.0, 1.0, level=0.0), "level"),
        (lambda: detectable_difference(1.0, 5, power=1.0), "power"),
        (lambda: detectable_difference(1.0, 5, level=0.5, power=0.4), "power"),
    ],
)
def test_numbers_out_of_range_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()


def test_noncentral_t_equals_scipys_where_that_is_a_number() -> None:
    generator = np.random.default_rng(0)
    compared = 0
    for _ in range(500):
        freedom = int(generator.choice([1, 2, 4, 9, 99, 999]))
        t = float(generator.choice([-1, 1]) * 10 ** generator.uniform(-2, 3))
        shift = float(generator.normal() * 10 ** generator.uniform(-1, 1) + generator.choice([0, t]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            expected = float(stats.nct.cdf(t, freedom, shift))
        if not math.isnan(expected):
            compared += 1
            assert noncentral_t_cdf(t, freedom, shift) == pytest.approx(expected, abs=1e-9)
    assert compared > 450


@pytest.mark.parametrize(("t", "shift"), [(-12.7, 8.0), (1e6, 9e5), (-3e7, -2e7), (0.0, 50.0), (1.0, -50.0)])
@pytest.mark.parametrize("freedom", [1, 4])
def test_noncentral_t_is_a_probability_where_scipys_is_none(t: float, shift: float, freedom: int) -> None:
    generator = np.random.default_rng(0)
    chi = np.sqrt(generator.chisquare(freedom, 100_000) / freedom)
    simulated = float((generator.normal(shift, 1.0, 100_000) <= t * chi).mean())
    assert noncentral_t_cdf(t, freedom, shift) == pytest.approx(simulated, abs=0.005)


@settings(deadline=None, max_examples=50)
@given(st.floats(-50, 50), st.integers(1, 40), st.sampled_from([0.025, 0.3, 0.5, 0.975]))
def test_the_noncentrality_undoes_the_distribution(t: float, freedom: int, probability: float) -> None:
    assert noncentral_t_cdf(t, freedom, noncentrality(t, freedom, probability)) == pytest.approx(probability)


def test_a_root_far_from_the_start_is_found() -> None:
    assert root(lambda x: x - 1e6, 0.0, 1.0) == pytest.approx(1e6)
    assert root(lambda x: x + 1e6, 0.0, 1.0) == pytest.approx(-1e6)
