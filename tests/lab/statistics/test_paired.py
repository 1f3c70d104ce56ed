from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import Interval, hedges_g, paired_difference, sign_p, signed_rank_p

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
@given(small)
def test_signed_ranks_equal_every_assignment_of_signs(d: list[float]) -> None:
    """Ties and zeros included, where scipy's exact distribution does not hold."""
    ranks = stats.rankdata(np.abs(d))
    kept = [rank for rank, value in zip(ranks, d, strict=True) if value]
    centre = sum(kept) / 2
    observed = abs(sum(rank for rank, value in zip(ranks, d, strict=True) if value > 0) - centre)
    sums = [sum(itertools.compress(kept, signs)) for signs in itertools.product([0, 1], repeat=len(kept))]
    expected = sum(abs(total - centre) >= observed - 1e-9 for total in sums) / len(sums)
    assert signed_rank_p(d) == pytest.approx(expected)


@pytest.mark.parametrize("size", [3, 5, 6, 12, 50])
def test_signed_ranks_equal_scipys_where_both_are_exact(size: int) -> None:
    d = np.random.default_rng(size).normal(0.5, 1.0, size)
    assert signed_rank_p(d.tolist()) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)


def test_many_signed_ranks_equal_scipys_normal_distribution() -> None:
    d = np.random.default_rng(0).integers(-3, 5, 80).astype(float)
    expected = stats.wilcoxon(d, zero_method="pratt", method="asymptotic")
    assert signed_rank_p(d.tolist()) == pytest.approx(expected.pvalue)


def test_the_exact_and_the_normal_distribution_meet() -> None:
    d = np.random.default_rng(4).normal(0.25, 1.0, 50)
    assert signed_rank_p(d.tolist()) == pytest.approx(signed_rank_p([*d.tolist(), 0.0]), rel=0.15)


def test_five_seeds_never_reach_five_percent_by_ranks_and_six_do() -> None:
    assert signed_rank_p([1.0] * 5) == 0.0625
    assert signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 0.03125


def test_infinite_differences_rank_largest_and_tie() -> None:
    assert signed_rank_p([math.inf, math.inf, -1.0, 2.0]) == signed_rank_p([7.0, 7.0, -1.0, 2.0])
    assert signed_rank_p([math.inf, -math.inf]) == 1.0
    assert sign_p([math.inf, -1.0, math.inf, math.inf]) == sign_p([1.0, -1.0, 1.0, 1.0])


def test_zeros_by_pratt_are_ranked_and_left_out() -> None:
    # Ranks 1.5 1.5 3 4 5, the first two left out: all of 3 4 5 to one side has chance 2 / 8.
    assert signed_rank_p([0.0, 0.0, 1.0, 2.0, 3.0]) == 0.25
    assert signed_rank_p([0.0, -1.0, 2.0, 3.0]) == 0.5  # weights 2 3 4, W = 7 of 9: 0 2 7 9 of eight as far out
    assert signed_rank_p([0.0, 0.0]) == signed_rank_p([]) == 1.0


def test_sign_test_equals_scipys_and_leaves_zeros_out() -> None:
    assert sign_p([1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 0.0]) == pytest.approx(stats.binomtest(5, 6).pvalue)
    assert sign_p([1.0, -1.0]) == sign_p([0.0]) == sign_p([]) == 1.0


def test_what_is_no_number_has_no_rank_and_no_sign() -> None:
    with pytest.raises(ValueError, match="rank"):
        signed_rank_p([1.0, math.nan])
    with pytest.raises(ValueError, match="sign"):
        sign_p([1.0, math.nan])


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


@settings(deadline=None)
@given(samples, st.floats(0.01, 100.0), st.permutations(range(8)))
def test_what_seeds_share_and_the_unit_and_their_names_leave_g_alone(
    values: list[float], unit: float, seeds: list[int]
) -> None:
    a, b = against_zero(values)
    g = hedges_g(a, b)
    shifted = hedges_g(
        {seeds[i]: unit * (value + 10 * i) for i, value in enumerate(values)},
        {seeds[i]: unit * 10 * i for i in range(len(values))},
    )
    assert g is not None
    assert shifted is not None
    if np.std(values) > 1e-3:  # below, what is left of the spread is rounding
        assert shifted.estimate == pytest.approx(g.estimate, rel=1e-6, abs=1e-6)


def test_g_by_hand() -> None:
    # Differences 1 2 3: mean 2, deviation 1; J with 2 degrees of freedom is 1 / Gamma(1/2).
    found = hedges_g(*against_zero([1.0, 2.0, 3.0]))
    assert found is not None
    assert found.estimate == pytest.approx(2 / math.sqrt(math.pi))
    assert found.method == "noncentral t"
    ten = hedges_g(*against_zero([1.0, 2.0, 3.0] * 3 + [2.0]))
    assert ten is not None
    assert ten.estimate == pytest.approx((1 - 3 / (4 * 9 - 1)) * 2 / np.std([1, 2, 3] * 3 + [2], ddof=1), rel=1e-3)


def test_g_is_unbiased() -> None:
    delta, size = 0.8, 5
    correction = hedges_g(*against_zero([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert correction is not None
    factor = correction.estimate / (3 / math.sqrt(2.5))
    d = np.random.default_rng(0).normal(delta, 1.0, (200_000, size))
    estimates = factor * d.mean(1) / d.std(1, ddof=1)
    assert abs(estimates.mean() - delta) < 4 * estimates.std() / math.sqrt(len(estimates))


@pytest.mark.parametrize(("delta", "size", "confidence"), [(0.0, 3, 0.95), (0.8, 5, 0.95), (2.0, 5, 0.8)])
def test_the_interval_of_g_covers_the_truth_as_often_as_it_says(delta: float, size: int, confidence: float) -> None:
    hits, runs = 0, 700
    for values in np.random.default_rng(size).normal(delta, 1.0, (runs, size)).tolist():
        found = hedges_g(*against_zero(values), confidence)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= delta <= found.high
    assert abs(hits / runs - confidence) <= 3 * math.sqrt(confidence * (1 - confidence) / runs)


def test_g_holds_zero_exactly_where_the_t_test_finds_nothing() -> None:
    generator = random.Random(0)
    for _ in range(100):
        a, b = against_zero([generator.gauss(0.9, 1.0) for _ in range(5)])
        g, difference = hedges_g(a, b), paired_difference(a, b)
        assert g is not None
        assert difference is not None
        assert g.low is not None
        assert g.high is not None
        assert difference.p is not None
        assert (g.low <= 0 <= g.high) == (difference.p >= 0.05)


def test_g_without_seeds_or_spread() -> None:
    assert hedges_g(*against_zero([1.0, 2.0])) is None
    assert hedges_g(*against_zero([0.0] * 3)) == Interval(0.0, None, None, 0.95, "none")
    assert hedges_g(*against_zero([-1.0] * 3)) == Interval(-math.inf, None, None, 0.95, "none")
    nearly = hedges_g(*against_zero([1.0, 1.0, 1.0 + 1e-15]))
    assert nearly is not None
    assert nearly.low is not None
    assert nearly.high is not None
    assert 1e13 < nearly.low < nearly.estimate < nearly.high
