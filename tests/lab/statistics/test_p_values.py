from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import holm, sign_p, signed_rank_p

small = st.lists(st.integers(-3, 3).map(float), max_size=9)
p_values = st.lists(st.floats(0.0, 1.0), max_size=8)


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


def test_holm_by_hand() -> None:
    # Sorted 0.005 0.011 0.02 0.04 times 4 3 2 1: 0.02 0.033 0.04 0.04.
    assert holm([0.04, 0.005, 0.02, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.02, 0.015]) == pytest.approx([0.03, 0.03])  # never below a smaller one's
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("true", [6, 3])
def test_any_false_discovery_is_as_rare_as_the_level(true: int) -> None:
    """With 6 true hypotheses of 6; and with 3, the others surely rejected, where Bonferroni is half as often wrong."""
    runs = 10_000
    drawn = np.random.default_rng(true).uniform(size=(runs, 6))
    drawn[:, true:] = 0.0
    false = sum(min(holm(p)[:true]) < 0.05 for p in drawn.tolist()) / runs
    expected = 1 - (1 - 0.05 / true) ** true
    assert abs(false - expected) <= 3 * math.sqrt(expected * (1 - expected) / runs)
    assert false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@given(p_values)
def test_corrected_values_are_between_the_raw_and_bonferronis(p: list[float]) -> None:
    for raw, corrected in zip(p, holm(p), strict=True):
        assert raw <= corrected <= min(1.0, len(p) * raw)


@given(p_values, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(p: list[float], generator: object) -> None:
    order = list(range(len(p)))
    generator.shuffle(order)  # type: ignore[attr-defined]
    corrected = holm(p)
    assert holm([p[i] for i in order]) == [corrected[i] for i in order]
