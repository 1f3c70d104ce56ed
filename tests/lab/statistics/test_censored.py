from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import Interval, TimeComparison, compare_times, median_interval, reached_share

NEVER = math.inf
times = st.dictionaries(st.integers(0, 9), st.sampled_from([1.0, 2.0, 5.0, 7.0, 100.0, NEVER]), min_size=1)


@pytest.mark.parametrize(
    ("size", "place", "guaranteed"),
    [
        # Conover, Practical Nonparametric Statistics: k = 1 for 6 to 8 values, 2 for 9 to 11, 6 for 20 at 95 %.
        (6, 1, 1 - 2 / 64),
        (8, 1, 1 - 2 / 256),
        (9, 2, 1 - 2 * 10 / 512),
        (11, 2, 1 - 2 * 12 / 2048),
        (20, 6, 0.9586105346679688),
        # Too few for 95 %: the extremes, with what they do guarantee.
        (5, 1, 0.9375),
        (3, 1, 0.75),
        (2, 1, 0.5),
    ],
)
def test_the_median_lies_between_the_order_statistics_of_the_tables(size: int, place: int, guaranteed: float) -> None:
    found = median_interval([float(value) for value in reversed(range(1, size + 1))])
    assert (found.low, found.high) == (place, size + 1 - place)
    assert found.estimate == (size + 1) / 2
    assert found.confidence == pytest.approx(guaranteed)


def test_the_median_may_be_infinite_and_so_may_its_limits() -> None:
    assert median_interval([1.0, 2.0, 3.0, NEVER, NEVER, NEVER]) == Interval(
        NEVER, 1.0, NEVER, 0.96875, "order statistics"
    )
    assert median_interval([NEVER] * 6).low == NEVER
    assert median_interval([3.0]) == Interval(3.0, None, None, 0.95, "none")
    with pytest.raises(ValueError, match="at least one value"):
        median_interval([])


@pytest.mark.parametrize("size", [5, 6, 12])
@pytest.mark.parametrize("missed", [0.0, 0.3, 0.49, 0.7])
def test_the_interval_of_the_median_covers_it_with_missed_targets(size: int, missed: float) -> None:
    generator = np.random.default_rng(size)
    runs = 1500
    drawn = generator.exponential(1.0, (runs, size))
    # Those above the quantile never arrive; the median itself is finite below half, infinite above.
    drawn[drawn > -math.log(missed or 1e-300)] = NEVER
    truth = math.log(2) if missed < 0.5 else NEVER
    hits, guaranteed = 0, 0.0
    for values in drawn.tolist():
        found = median_interval(values)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
        guaranteed = found.confidence
    error = 3 * math.sqrt(guaranteed * (1 - guaranteed) / runs)
    assert hits / runs >= guaranteed - error
    if missed < 0.5:  # of a continuous distribution the guarantee is exact
        assert hits / runs <= guaranteed + error


@pytest.mark.parametrize("size", [1, 3, 5, 10])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_of_the_share_never_undercuts_its_confidence(size: int, confidence: float) -> None:
    """Exactly, over a grid of true shares."""
    limits = [reached_share([1.0] * reached + [NEVER] * (size - reached), confidence) for reached in range(size + 1)]
    for share in np.linspace(0, 1, 201):
        holds = [(found.low or 0.0) <= share <= (found.high or 0.0) for found in limits]
        assert stats.binom.pmf(np.arange(size + 1), size, share)[holds].sum() >= confidence - 1e-9


def test_the_share_of_runs_that_arrived() -> None:
    found = reached_share([3.0, NEVER, 4.0, NEVER, 9.0])
    assert found.estimate == 0.6
    assert (found.low, found.high) == pytest.approx((0.14663, 0.94726), abs=1e-4)  # Clopper and Pearson's tables
    assert reached_share([1.0, 1.0]).high == 1.0
    assert reached_share([NEVER, NEVER]).low == 0.0
    with pytest.raises(ValueError, match="at least one run"):
        reached_share([])
    with pytest.raises(ValueError, match="positive"):
        reached_share([1.0, math.nan])


def test_times_compared_by_hand() -> None:
    a = {0: 10.0, 1: 20.0, 2: NEVER, 3: 30.0, 4: NEVER, 7: 1.0}
    b = {0: 20.0, 1: 20.0, 2: NEVER, 3: NEVER, 4: 50.0, 8: 1.0}
    # log 1/2, 0, tie of two missed, -inf, +inf. Pratt's ranks: zeros 1.5 1.5, then 3, then 4.5 4.5 of the infinite.
    # Weights 3 4.5 4.5; positive sum 4.5 of 12: as far out as 0, 3, 4.5, 4.5, 7.5, 7.5, 9 and 12: always.
    assert compare_times(a, b) == TimeComparison(5, 2, 1, 2, 1.0, 1.0, 30.0 / 50.0, "")


def test_a_run_that_alone_arrives_is_the_largest_difference() -> None:
    a = dict.fromkeys(range(7), 10.0)
    b = {0: 9.0, 1: 8.0, **dict.fromkeys(range(2, 7), NEVER)}
    found = compare_times(a, b)
    assert found is not None
    # Ranks 1 and 2 against five of 5: positive sum 3 of 28. Of 128 assignments with W <= 3: {} {1} {2} {1, 2}.
    assert found.wilcoxon_p == pytest.approx(2 * 4 / 128)
    assert found.sign_p == pytest.approx(stats.binomtest(2, 7).pvalue)
    assert (found.sooner, found.later, found.ties) == (5, 2, 0)


@pytest.mark.parametrize(
    ("a", "b", "horizon", "ratio", "bound"),
    [
        (20.0, 50.0, None, 0.4, ""),
        (20.0, 50.0, 30.0, 0.4, ""),
        (NEVER, 50.0, 100.0, 2.0, "at least"),
        (50.0, NEVER, 100.0, 0.5, "at most"),
        (NEVER, 50.0, None, NEVER, "at least"),
        (50.0, NEVER, None, 0.0, "at most"),
        (NEVER, NEVER, 100.0, None, ""),
    ],
)
def test_a_missed_target_bounds_the_ratio(
    a: float, b: float, horizon: float | None, ratio: float | None, bound: str
) -> None:
    found = compare_times({0: a}, {0: b}, horizon=horizon)
    assert found is not None
    assert (found.ratio, found.bound) == (ratio, bound)


def test_the_ratio_is_of_medians_over_the_shared_seeds() -> None:
    found = compare_times({0: 1.0, 1: 4.0, 2: NEVER, 9: 0.1}, {0: 2.0, 1: 2.0, 2: 3.0, 8: 0.1})
    assert found is not None
    assert found.ratio == 2.0


def test_nothing_to_compare_and_what_is_no_time() -> None:
    assert compare_times({0: 1.0}, {1: 1.0}) is None
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="positive"):
            compare_times({0: bad}, {0: 1.0})
        with pytest.raises(ValueError, match="positive"):
            compare_times({0: 1.0}, {0: bad})
        with pytest.raises(ValueError, match="positive"):
            compare_times({0: 1.0}, {0: 1.0}, horizon=bad)


@settings(deadline=None)
@given(times, times)
def test_turning_the_pair_round_mirrors_the_comparison(a: dict[int, float], b: dict[int, float]) -> None:
    there, back = compare_times(a, b, horizon=200.0), compare_times(b, a, horizon=200.0)
    if there is None or back is None:
        assert not a.keys() & b.keys()
        return
    assert (there.sooner, there.later, there.ties) == (back.later, back.sooner, back.ties)
    assert (there.wilcoxon_p, there.sign_p) == (back.wilcoxon_p, back.sign_p)
    assert there.sooner + there.later + there.ties == there.pairs
    if there.ratio is not None:
        assert there.ratio * (back.ratio or 0.0) == pytest.approx(1.0)


@settings(deadline=None)
@given(times, times, st.permutations(range(10)), st.sampled_from([0.5, 4.0]))
def test_neither_the_seeds_names_nor_the_unit_matter(
    a: dict[int, float], b: dict[int, float], names: list[int], unit: float
) -> None:
    renamed = compare_times(
        {names[seed]: unit * time for seed, time in a.items()}, {names[seed]: unit * time for seed, time in b.items()}
    )
    found = compare_times(a, b)
    assert (found is None) == (renamed is None)
    if found is not None and renamed is not None:
        assert asdict(found) == pytest.approx(asdict(renamed))


def test_equal_optimizers_times_are_told_apart_no_more_often_than_the_level() -> None:
    generator = np.random.default_rng(0)
    runs = 1500
    drawn = generator.exponential(1.0, (runs, 2, 8))
    drawn[drawn > 1.2] = NEVER
    false = [0, 0]
    for a, b in drawn.tolist():
        found = compare_times(dict(enumerate(a)), dict(enumerate(b)))
        assert found is not None
        false[0] += found.wilcoxon_p < 0.05
        false[1] += found.sign_p < 0.05
    assert max(false) / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert false[0] / runs > 0.01  # it can find something
