from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valleys.lab.statistics import TimeComparison, compare_times

NEVER = math.inf
times = st.dictionaries(st.integers(0, 9), st.sampled_from([1.0, 2.0, 5.0, 7.0, 100.0, NEVER]), min_size=1)


def test_times_compared_by_hand() -> None:
    a = {0: 10.0, 1: 20.0, 2: NEVER, 3: 30.0, 4: NEVER, 7: 1.0}
    b = {0: 20.0, 1: 20.0, 2: NEVER, 3: NEVER, 4: 50.0, 8: 1.0}
    # log 1/2, 0, tie of two missed, -inf, +inf. Pratt's ranks: zeros 1.5 1.5, then 3, then 4.5 4.5 of the infinite.
    # Weights 3 4.5 4.5; positive sum 4.5 of 12: as far out as 0, 3, 4.5, 4.5, 7.5, 7.5, 9 and 12: always.
    assert compare_times(a, b) == TimeComparison(5, 2, 1, 2, 1.0, 30.0 / 50.0, "")


def test_a_run_that_alone_arrives_is_the_largest_difference() -> None:
    a = dict.fromkeys(range(7), 10.0)
    b = {0: 9.0, 1: 8.0, **dict.fromkeys(range(2, 7), NEVER)}
    comparison = compare_times(a, b)
    assert comparison is not None
    # Ranks 1 and 2 against five of 5: positive sum 3 of 28. Of 128 assignments with W <= 3: {} {1} {2} {1, 2}.
    assert comparison.signed_rank_p == pytest.approx(2 * 4 / 128)
    assert (comparison.sooner, comparison.later, comparison.ties) == (5, 2, 0)


@pytest.mark.parametrize(
    ("a", "b", "horizon", "ratio", "bound"),
    [
        (20.0, 50.0, NEVER, 0.4, ""),
        (20.0, 50.0, 30.0, 0.4, ""),
        (NEVER, 50.0, 100.0, 2.0, "at least"),
        (50.0, NEVER, 100.0, 0.5, "at most"),
        (NEVER, 50.0, NEVER, NEVER, "at least"),
        (50.0, NEVER, NEVER, 0.0, "at most"),
        (NEVER, NEVER, 100.0, None, ""),
    ],
)
def test_a_missed_target_bounds_the_ratio(a: float, b: float, horizon: float, ratio: float | None, bound: str) -> None:
    comparison = compare_times({0: a}, {0: b}, horizons=(horizon, horizon))
    assert comparison is not None
    assert (comparison.ratio, comparison.bound) == (ratio, bound)


def test_the_run_whose_median_is_missed_gives_the_bound() -> None:
    longer = compare_times({0: NEVER}, {0: 50.0}, horizons=(200.0, 100.0))
    assert longer is not None
    assert (longer.ratio, longer.bound) == (4.0, "at least")
    shorter = compare_times({0: 50.0}, {0: NEVER}, horizons=(200.0, 100.0))
    assert shorter is not None
    assert (shorter.ratio, shorter.bound) == (0.5, "at most")


def test_the_ratio_is_of_medians_over_the_shared_units() -> None:
    comparison = compare_times({0: 1.0, 1: 4.0, 2: NEVER, 9: 0.1}, {0: 2.0, 1: 2.0, 2: 3.0, 8: 0.1})
    assert comparison is not None
    assert comparison.ratio == 2.0


def test_nothing_to_compare_and_what_is_no_time() -> None:
    assert compare_times({0: 1.0}, {1: 1.0}) is None
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="positive"):
            compare_times({0: bad}, {0: 1.0})
        with pytest.raises(ValueError, match="positive"):
            compare_times({0: 1.0}, {0: bad})
        with pytest.raises(ValueError, match="positive"):
            compare_times({0: 1.0}, {0: 1.0}, horizons=(1.0, bad))


@settings(deadline=None)
@given(times, times)
def test_turning_the_pair_round_mirrors_the_comparison(a: dict[int, float], b: dict[int, float]) -> None:
    forward, back = compare_times(a, b, horizons=(200.0, 300.0)), compare_times(b, a, horizons=(300.0, 200.0))
    if forward is None or back is None:
        assert not a.keys() & b.keys()
        return
    assert (forward.sooner, forward.later, forward.ties) == (back.later, back.sooner, back.ties)
    assert forward.signed_rank_p == back.signed_rank_p
    assert forward.sooner + forward.later + forward.ties == forward.units
    if forward.ratio is not None:
        assert forward.ratio * (back.ratio or 0.0) == pytest.approx(1.0)


@settings(deadline=None)
@given(times, times, st.permutations(range(10)), st.sampled_from([0.5, 4.0]))
def test_neither_the_seeds_names_nor_the_unit_matter(
    a: dict[int, float], b: dict[int, float], names: list[int], unit: float
) -> None:
    renamed = compare_times(
        {names[seed]: unit * time for seed, time in a.items()}, {names[seed]: unit * time for seed, time in b.items()}
    )
    comparison = compare_times(a, b)
    assert (comparison is None) == (renamed is None)
    if comparison is not None and renamed is not None:
        assert asdict(comparison) == pytest.approx(asdict(renamed))


def test_equal_optimizers_times_are_told_apart_no_more_often_than_the_level() -> None:
    generator = np.random.default_rng(0)
    runs = 1500
    times = generator.exponential(1.0, (runs, 2, 8))
    times[times > 1.2] = NEVER
    false = 0
    for a, b in times.tolist():
        comparison = compare_times(dict(enumerate(a)), dict(enumerate(b)))
        assert comparison is not None
        false += comparison.signed_rank_p < 0.05
    assert false / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert false / runs > 0.01  # it can find something
