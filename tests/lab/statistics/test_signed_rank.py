from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import signed_rank_p

small = st.lists(st.integers(-3, 3).map(float), max_size=9)


@settings(deadline=None)
@given(small)
def test_signed_ranks_equal_every_assignment_of_signs(d: list[float]) -> None:
    """Ties and zeros included, where scipy's exact distribution does not hold."""
    ranks = stats.rankdata(np.abs(d))
    chosen_ranks = [rank for rank, value in zip(ranks, d, strict=True) if value]
    centre = sum(chosen_ranks) / 2
    observed = abs(sum(rank for rank, value in zip(ranks, d, strict=True) if value > 0) - centre)
    sums = [
        sum(itertools.compress(chosen_ranks, signs)) for signs in itertools.product([0, 1], repeat=len(chosen_ranks))
    ]
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


def test_five_pairs_never_reach_five_percent_by_ranks_and_six_do() -> None:
    assert signed_rank_p([1.0] * 5) == 0.0625
    assert signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 0.03125


def test_infinite_differences_rank_largest_and_tie() -> None:
    assert signed_rank_p([math.inf, math.inf, -1.0, 2.0]) == signed_rank_p([7.0, 7.0, -1.0, 2.0])
    assert signed_rank_p([math.inf, -math.inf]) == 1.0


def test_zeros_by_pratt_are_ranked_and_left_out() -> None:
    # Ranks 1.5 1.5 3 4 5, the first two left out: all of 3 4 5 to one side has chance 2 / 8.
    assert signed_rank_p([0.0, 0.0, 1.0, 2.0, 3.0]) == 0.25
    assert signed_rank_p([0.0, -1.0, 2.0, 3.0]) == 0.5  # weights 2 3 4, W = 7 of 9: 0 2 7 9 of eight as far out
    assert signed_rank_p([0.0, 0.0]) == signed_rank_p([]) == 1.0


def test_what_is_no_number_has_no_rank() -> None:
    with pytest.raises(ValueError, match="rank"):
        signed_rank_p([1.0, math.nan])
