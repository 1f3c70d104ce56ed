from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import Difference, Metric, paired_difference

samples = st.lists(st.floats(-100, 100).map(lambda value: round(value, 2)), min_size=2, max_size=8)

ERRORS = Metric("error %", maximize=False, scale="log", resolution=0.5)
LOSS = Metric("loss", maximize=False, scale="log")


def paired(a: list[float], b: list[float], metric: Metric = LOSS, confidence: float = 0.95) -> Difference:
    difference = paired_difference(dict(enumerate(a)), dict(enumerate(b)), metric, confidence)
    assert difference is not None
    return difference


def accuracy(resolution: float) -> Metric:
    return Metric("accuracy %", maximize=True, resolution=resolution)


def test_the_interval_equals_scipys_on_the_shared_units() -> None:
    a = {0: 1.0, 1: 2.5, 2: 3.7, 3: 3.9, 9: 100.0}
    b = {3: 3.0, 0: 0.7, 1: 2.6, 2: 2.9, 8: -100.0}
    difference = paired_difference(a, b, confidence=0.9)
    assert difference is not None
    low, high = stats.ttest_rel([1.0, 2.5, 3.7, 3.9], [0.7, 2.6, 2.9, 3.0]).confidence_interval(0.9)
    assert difference.pairs == 4
    assert difference.half_width == pytest.approx((high - low) / 2)
    assert difference.mean == pytest.approx((high + low) / 2)
    assert difference.deviation == pytest.approx(np.std([0.3, -0.1, 0.8, 0.9], ddof=1))


def test_pairing_removes_what_the_units_share() -> None:
    shared = [100.0 * unit for unit in range(5)]
    difference = paired([value + 1 + 0.01 * (unit % 2) for unit, value in enumerate(shared)], shared, accuracy(0.0))
    assert difference.mean == pytest.approx(1.004)
    assert difference.half_width == pytest.approx(stats.t.isf(0.025, 4) * 0.01 * math.sqrt(0.3 / 5))


def test_degenerate_differences() -> None:
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    one = paired([3.0], [1.0], accuracy(0.0))
    assert (one.values, one.mean, one.half_width, one.deviation) == ((2.0,), 2.0, None, None)
    same = paired([1.0, 2.0], [1.0, 2.0], accuracy(0.0))
    assert (same.mean, same.half_width, same.deviation, same.within) == (0.0, 0.0, 0.0, True)


def test_the_deviation_is_at_least_one_example() -> None:
    coarse = paired([70.0, 71.0, 70.0], [69.0, 69.0, 69.0], accuracy(1.0))
    assert coarse.deviation == pytest.approx(math.sqrt(1 / 3))
    assert coarse.half_width == pytest.approx(stats.t.isf(0.025, 2) / math.sqrt(3))
    fine = paired([70.0, 71.0, 70.0], [69.0, 69.0, 69.0], accuracy(0.5))
    assert fine.half_width == pytest.approx(stats.t.isf(0.025, 2) * math.sqrt(1 / 3) / math.sqrt(3))


def test_on_a_logarithmic_scale_one_example_is_what_it_is_at_the_smaller_mean() -> None:
    difference = paired([2.0, 8.0], [20.0, 80.0], ERRORS)
    assert difference.values == pytest.approx([math.log(0.1)] * 2)
    assert difference.least == pytest.approx(math.log(4.5 / 4.0))
    assert difference.half_width == pytest.approx(stats.t.isf(0.025, 1) * math.log(4.5 / 4.0) / math.sqrt(2))
    assert paired([20.0, 80.0], [2.0, 8.0], ERRORS).least == difference.least


def test_the_largest_and_the_smallest_numbers_have_a_ratio() -> None:
    assert paired([1.7976931348623157e308] * 2, [5e-324] * 2).mean == pytest.approx(709.78 + 744.44, abs=0.01)
    assert paired([1.7976931348623157e308] * 2, [1.7976931348623157e308] * 2).mean == 0.0


def test_a_value_below_half_an_example_counts_as_half() -> None:
    difference = paired([0.0, 1.0], [1.0, 0.2], ERRORS)
    assert difference.values == pytest.approx([math.log(0.25), math.log(4.0)])
    assert difference.raised
    assert not paired([0.25, 1.0], [1.0, 0.5], ERRORS).raised
    assert not paired([-1.0, 1.0], [1.0, 0.2], accuracy(0.5)).raised


def test_a_continuous_value_without_a_logarithm_makes_the_scale_linear() -> None:
    difference = paired([0.0, 1.0], [1.0, 0.5])
    assert not difference.scale.log
    assert difference.values == (-1.0, 0.5)
    assert paired([0.1, 1.0], [1.0, 0.5]).scale.log


@pytest.mark.parametrize(("a", "within"), [([70.5, 70.0], True), ([70.0, 69.4999999999], True), ([71.0, 70.0], False)])
def test_differences_within_one_example_are_known_in_the_unit_of_the_metric(a: list[float], within: bool) -> None:
    assert paired(a, [70.0, 70.0], accuracy(0.5)).within == within
    assert paired([100 - x for x in a], [30.0, 30.0], ERRORS).within == within


@settings(deadline=None)
@given(samples)
def test_turning_the_pair_round_turns_the_sign_alone(values: list[float]) -> None:
    forward, back = (paired(a, b, accuracy(0.1)) for a, b in ((values, [1.0] * 8), ([1.0] * 8, values)))
    assert back.mean == -forward.mean
    assert (back.half_width, back.deviation, back.within) == (forward.half_width, forward.deviation, forward.within)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=2, max_size=6), st.floats(0.01, 100))
def test_a_ratio_has_no_unit(pairs: list[tuple[float, float]], unit: float) -> None:
    a, b = map(list, zip(*pairs, strict=True))
    here, forward = (paired([u * x for x in a], [u * y for y in b]) for u in (1.0, unit))
    assert forward.mean == pytest.approx(here.mean, abs=1e-9)
    assert forward.half_width == pytest.approx(here.half_width, abs=1e-6)


@pytest.mark.parametrize("rounds", [2, 3, 5])
@pytest.mark.parametrize("metric", [accuracy(0.0), LOSS], ids=["linear", "log"])
def test_the_interval_covers_the_truth_as_often_as_it_says(rounds: int, metric: Metric) -> None:
    runs, hits = 3000, 0
    shared = np.random.default_rng(rounds).normal(0.0, 3.0, (runs, 1, rounds))
    differences = shared + np.random.default_rng(1).normal(0.0, 0.5, (runs, 2, rounds)) + np.array([[[0.7], [0.0]]])
    for a, b in (np.exp(differences) if metric.scale == "log" else differences).tolist():
        difference = paired(a, b, metric, 0.9)
        assert difference.half_width is not None
        hits += abs(difference.mean - 0.7) <= difference.half_width
    assert abs(hits / runs - 0.9) <= 3 * math.sqrt(0.9 * 0.1 / runs)


def test_bonferroni_keeps_any_false_claim_among_dependent_pairs_as_rare_as_the_level() -> None:
    runs, false = 3000, 0
    for a, b, c in np.random.default_rng(0).normal(size=(runs, 3, 5)).tolist():
        differences = [paired(x, y, accuracy(0.0), 1 - 0.05 / 3) for x, y in ((a, b), (a, c), (b, c))]
        false += any(abs(d.mean) > (d.half_width or 0.0) for d in differences)
    assert 0.02 <= false / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
