from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab_fakes import record
from valleys.lab.optimizers.spec import Range
from valleys.lab.search import candidates

LOG = Range(1e-4, 1.0)
LINEAR = Range(0.0, 10.0, "linear")
DECAY = Range(0.5, 0.99, "reverse-log")
NAMES = list(candidates.COLUMNS)


@pytest.mark.parametrize("trials", [1, 3, 8, 13])
def test_points_lie_in_the_space_and_more_trials_extend_the_sequence(trials: int) -> None:
    points = candidates.points({"lr": LOG, "x": LINEAR}, trials)
    assert len(points) == trials
    assert all(1e-4 <= point["lr"] <= 1 and 0 <= point["x"] <= 10 for point in points)
    assert candidates.points({"lr": LOG, "x": LINEAR}, 40)[:trials] == points


OTHERS = st.lists(st.text("abcdefgh_", min_size=1, max_size=12), unique=True, max_size=6)


@settings(max_examples=50, deadline=None)
@given(names=st.sets(st.sampled_from(NAMES), min_size=1), more=OTHERS, round_=st.integers(0, 40))
def test_a_name_has_the_same_values_whatever_else_is_tuned(names: set[str], more: list[str], round_: int) -> None:
    alone = {name: candidates.points({name: LOG}, 8, round_) for name in names}
    together = candidates.points(dict.fromkeys([*more, *names], LOG), 8, round_)
    for name in names:
        assert [point[name] for point in alone[name]] == [point[name] for point in together]


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(st.text("ab", min_size=1, max_size=9), unique=True, max_size=80),
    base=st.sets(st.sampled_from(NAMES)),
)
def test_no_two_names_of_an_optimizer_share_a_column(names: list[str], base: set[str]) -> None:
    owned = candidates.columns([*names, *base])
    assert len(set(owned.values())) == len(owned)
    assert owned == {name: candidates.columns([*base, *reversed(names)])[name] for name in owned}
    assert all(owned[name] == candidates.COLUMNS[name] for name in base)


def test_names_with_equal_checksums_get_columns_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zlib.crc32", lambda text: 511)
    assert candidates.columns(["lr", "b", "a"]) == {"lr": 0, "b": 8, "a": 519}


def confounded(trials: int) -> set[tuple[str, str]]:
    """Pairs of names whose points leave two of the four quadrants empty in some round."""
    space = {name: Range(1e-9, 1.0, "linear") for name in NAMES}
    pairs = set()
    for round_ in range(5):
        points = candidates.points(space, trials, round_)
        for one, other in itertools.combinations(NAMES, 2):
            if len({(point[one] > 0.5, point[other] > 0.5) for point in points}) < 4:
                pairs.add((one, other))
    return pairs


def test_eight_points_cross_all_names_of_a_base_and_sixteen_all_names() -> None:
    # Eight points of a Sobol sequence have four kinds of first digit: five names cannot all be crossed.
    assert confounded(8) == {("weight_decay", "memory")}
    assert confounded(16) == set()


def test_an_eighth_of_the_trials_has_no_weight_decay() -> None:
    space = {"weight_decay": Range(1e-4, 0.1, zero=1 / 8)}
    for round_ in range(5):
        decays = [point["weight_decay"] for point in candidates.points(space, 8, round_)]
        assert decays.count(0.0) == 1
        assert all(1e-4 <= decay <= 0.1 for decay in decays if decay)


@pytest.mark.parametrize("ranges", [LOG, LINEAR, DECAY, Range(1e-4, 0.1, zero=1 / 8)], ids=str)
def test_positions_invert_values(ranges: Range) -> None:
    for u in (0.13, 0.2, 0.5, 0.999):
        assert ranges.position(ranges.value(u)) == pytest.approx(u)
    assert ranges.value(1.0) == ranges.high


def test_seeds_of_all_runs_differ_and_are_the_same_for_all_optimizers() -> None:
    seeds = [candidates.tuning_seed(r, i) for r in range(5) for i in range(100)]
    seeds += [candidates.fresh_seed(r, i) for r in range(5) for i in range(100)]
    assert len(set(seeds)) == len(seeds)
    assert candidates.tuning_seed(4, candidates.MOST - 1) < candidates.fresh_seed(4, 0)
    assert candidates.fresh_seed(4, candidates.MOST - 1) < candidates.tuning_seed(5, 0)


def test_points_are_spread_as_a_balanced_sequence_is() -> None:
    lrs = sorted(point["lr"] for point in candidates.points({"lr": LOG, "wd": LOG}, 8))
    eighths = [math.floor(8 * math.log(lr / 1e-4) / math.log(1e4)) for lr in lrs]
    assert eighths == list(range(8))


def test_another_round_has_other_points() -> None:
    assert candidates.points({"lr": LOG}, 4, 0) != candidates.points({"lr": LOG}, 4, 1)


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
        (0.989, DECAY, True),
        (0.985, DECAY, False),
        (0.0, Range(1e-4, 1.0, zero=0.1), False),  # less than none there is not
        (0.9, Range(1e-4, 1.0, zero=0.1), True),
    ],
)
def test_edge_is_five_percent_of_the_range_on_its_own_scale(value: float, ranges: Range, edge: bool) -> None:
    assert bool(candidates.at_edge({"lr": value}, {"lr": ranges})) is edge
