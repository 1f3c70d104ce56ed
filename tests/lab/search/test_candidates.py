from __future__ import annotations

import math

import pytest

from lab_fakes import record
from valleys.lab.optimizers.spec import Range
from valleys.lab.search import candidates

LOG = Range(1e-4, 1.0)
LINEAR = Range(0.0, 10.0, log=False)


@pytest.mark.parametrize("trials", [1, 3, 8, 13])
def test_points_lie_in_the_space_and_more_trials_extend_the_sequence(trials: int) -> None:
    drawn = candidates.points({"lr": LOG, "x": LINEAR}, trials)
    assert len(drawn) == trials
    assert all(1e-4 <= point["lr"] <= 1 and 0 <= point["x"] <= 10 for point in drawn)
    assert candidates.points({"lr": LOG, "x": LINEAR}, 40)[:trials] == drawn


def test_optimizers_with_equally_many_dimensions_search_the_same_unit_points() -> None:
    a = candidates.points({"lr": LOG}, 8)
    b = candidates.points({"rate": Range(1e-2, 1e2)}, 8)
    for one, other in zip(a, b, strict=True):
        assert other["rate"] == pytest.approx(100 * one["lr"])


def test_points_are_spread_as_a_balanced_sequence_is() -> None:
    lrs = sorted(point["lr"] for point in candidates.points({"lr": LOG, "wd": LOG}, 8))
    eighths = [math.floor(8 * math.log(lr / 1e-4) / math.log(1e4)) for lr in lrs]
    assert eighths == list(range(8))


def test_another_seed_gives_other_points() -> None:
    assert candidates.points({"lr": LOG}, 4, seed=0) != candidates.points({"lr": LOG}, 4, seed=1)


def test_rounding_never_leaves_the_space() -> None:
    narrow = Range(0.1, 0.1 * (1 + 1e-15))
    assert all(narrow.low <= point["lr"] <= narrow.high for point in candidates.points({"lr": narrow}, 32))


def test_a_space_without_dimensions_has_one_point() -> None:
    assert candidates.points({}, 8) == [{}]


def test_selection_takes_the_best_finished_trial_and_the_first_of_equals() -> None:
    records = {
        0: record(validation=80.0),
        1: record(validation=None, diverged=True),
        2: record(validation=95.0),
        3: record(validation=95.0),
        4: record(validation=math.inf),
        5: record(validation=99.0, diverged=True),
    }
    assert candidates.select(records, maximize=True) == 2
    assert candidates.select(records, maximize=False) == 0
    assert candidates.select(dict(reversed(records.items())), maximize=True) == 2


def test_nothing_is_selected_where_everything_diverged() -> None:
    assert candidates.select({0: record(validation=None, diverged=True)}, maximize=True) is None
    assert candidates.select({}, maximize=True) is None


@pytest.mark.parametrize(
    ("value", "ranges", "edge"),
    [
        (1.5e-4, LOG, True),  # 4.4 % of the logarithmic range
        (1.6e-4, LOG, False),  # 5.1 %
        (0.7, LOG, True),
        (0.6, LOG, False),
        (0.4, LINEAR, True),
        (9.6, LINEAR, True),
        (5.0, LINEAR, False),
        (3.0, Range(3.0, 3.0), False),
    ],
)
def test_edge_is_five_percent_of_the_range_on_its_own_scale(value: float, ranges: Range, edge: bool) -> None:
    assert bool(candidates.at_edge({"lr": value}, {"lr": ranges})) is edge
