"""Mean ranks over comparisons: known critical values, ties, groups, and the rate of false differences."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from valleys.lab.statistics.profiles import ranking

# Demsar 2006, Table 5 (a): critical values of the two-tailed Nemenyi test at 5 %, for 2 to 10 classifiers.
QUANTILES = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)


@pytest.mark.parametrize(("k", "quantile"), list(enumerate(QUANTILES, 2)))
def test_the_critical_difference_is_that_of_the_published_table(k: int, quantile: float) -> None:
    row = {str(number): float(number) for number in range(k)}
    assert ranking([row] * 7).critical == pytest.approx(quantile * math.sqrt(k * (k + 1) / 6 / 7), abs=2e-3)


def test_larger_scores_have_lower_ranks_and_equal_ones_share_them() -> None:
    result = ranking([{"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": -math.inf}])
    assert result.ranks == {"a": 1.25, "b": 1.75, "c": 3.0}
    assert list(result.ranks) == ["a", "b", "c"]
    assert sum(result.ranks.values()) == 6.0


def test_a_group_holds_what_does_not_differ_and_none_lies_in_another() -> None:
    rng = random.Random(0)
    for _ in range(50):
        k, n = rng.randint(2, 8), rng.randint(2, 60)
        level = {str(number): rng.choice([0.0, 2.0, 4.0]) for number in range(k)}
        scores = [{name: mean + rng.gauss(0, 1) for name, mean in level.items()} for _ in range(n)]
        result = ranking(scores)
        for group in result.groups:
            assert result.ranks[group[-1]] - result.ranks[group[0]] <= result.critical
        for one, other in itertools.permutations(result.groups, 2):
            assert not set(one) <= set(other)
        for first, second in itertools.combinations(result.ranks, 2):
            together = any({first, second} <= set(group) for group in result.groups)
            assert together == (result.ranks[second] - result.ranks[first] <= result.critical)


def test_equal_optimizers_differ_in_at_most_five_percent() -> None:
    rng = random.Random(1)
    runs = 400
    false = 0
    for _ in range(runs):
        result = ranking([{name: rng.gauss(0, 1) for name in "abcd"} for _ in range(12)])
        false += result.groups != (tuple(result.ranks),)
    assert false / runs <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / runs)
    assert false > 0


@pytest.mark.parametrize("scores", [[], [{"a": 1.0}], [{"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0}]])
def test_what_cannot_be_ranked_is_refused(scores: list[dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="same optimizers, two or more"):
        ranking(scores)
