from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import hedges_g, paired_difference

small = st.lists(st.integers(-3, 3).map(float), max_size=9)
samples = st.lists(st.floats(-100, 100).map(lambda value: round(value, 2)), min_size=3, max_size=8)


def against_zero(values: list[float]) -> tuple[dict[int, float], dict[int, float]]:
    return dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0)


def test_paired_difference_equals_scipys_tests_on_the_shared_seeds() -> None:
    a = {0: 1.0, 1: 2.5, 2: 3.7, 3: 3.9, 9: 100.0}
    b = {3: 3.0, 0: 0.7, 1: 2.6, 2: 2.9, 8: -100.0}
    difference = paired_difference(a, b)
    assert difference is not None
    expected = stats.ttest_rel([1.0, 2.5, 3.7, 3.9], [0.7, 2.6, 2.9, 3.0])
    low, high = expected.confidence_interval(0.95)
    assert difference.pairs == 4
    assert difference.p == pytest.approx(expected.pvalue)
    assert difference.half_width == pytest.approx((high - low) / 2)
    assert difference.deviation == pytest.approx(np.std([0.3, -0.1, 0.8, 0.9], ddof=1))
    assert difference.wilcoxon_p == pytest.approx(stats.wilcoxon([0.3, -0.1, 0.8, 0.9]).pvalue)


def test_pairing_sees_through_what_the_seeds_share() -> None:
    shared = {seed: 100.0 * seed for seed in range(5)}
    a = {seed: value + 1 + 0.01 * (seed % 2) for seed, value in shared.items()}
    difference = paired_difference(a, shared)
    assert difference is not None
    assert difference.p is not None
    assert difference.p < 1e-6


def test_degenerate_differences() -> None:
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    one = paired_difference({0: 3.0}, {0: 1.0})
    assert one is not None
    assert (one.mean, one.half_width, one.p, one.pairs, one.deviation, one.wilcoxon_p) == (2.0, None, None, 1) + (
        None,
    ) * 2
    same = paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert same is not None
    assert (same.half_width, same.p, same.deviation, same.wilcoxon_p) == (0.0, 1.0, 0.0, 1.0)
    constant = paired_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert constant is not None
    assert (constant.p, constant.wilcoxon_p) == (0.0, 0.5)


@settings(deadline=None)
@given(samples)
def test_turning_the_pair_round_turns_the_signs_alone(values: list[float]) -> None:
    a, b = against_zero(values)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there is not None
    assert back is not None
    assert back.mean == -there.mean
    assert (back.half_width, back.p, back.wilcoxon_p) == (there.half_width, there.p, there.wilcoxon_p)
    g, mirrored = hedges_g(a, b), hedges_g(b, a)
    assert g is not None
    assert mirrored is not None
    assert mirrored.estimate == pytest.approx(-g.estimate)
    if g.low is not None and g.high is not None:
        assert mirrored.low == pytest.approx(-g.high, abs=1e-6, rel=1e-6)
        assert mirrored.high == pytest.approx(-g.low, abs=1e-6, rel=1e-6)
        assert g.low < g.estimate < g.high
