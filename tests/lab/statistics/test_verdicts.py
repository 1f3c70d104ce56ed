from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valleys.lab.statistics import (
    Metric,
    Outcome,
    TimeComparison,
    Verdict,
    detectable_difference,
    hedges_g,
    judge,
    signed_rank_p,
    two_best,
)

ACCURACY = Metric("accuracy %", maximize=True)
LOSS = Metric("loss", maximize=False, scale="log")
A = (90.5, 91.4, 92.45, 90.0)
B = (90.0, 91.0, 92.0, 89.6)


def outcome(*test: float | None, **fields: object) -> Outcome:
    return replace(Outcome(dict(enumerate(test, 1))), **fields)  # type: ignore[arg-type]


def verdict(
    a: tuple[float | None, ...], b: tuple[float | None, ...], metric: Metric = ACCURACY, shared: int = 1
) -> Verdict:
    (judged,) = judge([("a", "b")], {"a": outcome(*a), "b": outcome(*b)}, metric, shared=shared)
    return judged


def test_a_verdict_carries_the_numbers_behind_it() -> None:
    judged = verdict(A, B, shared=4)
    d = [x - y for x, y in zip(A, B, strict=True)]
    low, high = stats.ttest_1samp(d, 0.0).confidence_interval(1 - 0.05 / 4)
    assert (judged.first, judged.second, judged.better) == ("a", "b", "a")
    assert (judged.unit, judged.units, judged.lost, judged.scale) == ("round", 4, (0, 0), "linear")
    assert (judged.difference, judged.low, judged.high) == pytest.approx((sum(d) / 4, low, high))
    assert judged.confidence == 1 - 0.05 / 4
    assert judged.deviation == pytest.approx(stats.tstd(d))
    assert judged.detectable == pytest.approx(detectable_difference(stats.tstd(d), 4, level=0.05 / 4))
    assert judged.effect == hedges_g(d, 1 - 0.05 / 4)
    assert judged.signed_rank_p == signed_rank_p(d)
    assert (judged.floored, judged.coarse, judged.steps, judged.seconds) == (False, False, None, None)


def test_on_a_logarithmic_scale_differences_are_ratios() -> None:
    judged = verdict((1.0, 2.2, 3.1), (4.0, 9.0, 12.0), LOSS)
    d = [math.log(x / y) for x, y in ((1.0, 4.0), (2.2, 9.0), (3.1, 12.0))]
    low, high = stats.ttest_1samp(d, 0.0).confidence_interval(0.95)
    assert judged.better == "a"
    assert judged.scale == "log"
    expected = [math.exp(x) for x in (sum(d) / 3, low, high)]
    assert [judged.difference, judged.low, judged.high] == pytest.approx(expected)
    assert judged.deviation == pytest.approx(stats.tstd(d))
    least = detectable_difference(stats.tstd(d), 3)
    assert least is not None
    assert judged.detectable == pytest.approx(math.exp(least))


def test_the_case_that_a_linear_scale_missed() -> None:
    """Every run of one is four times worse than that of the other."""
    a, b = (0.001, 0.03, 0.002), (0.0041, 0.119, 0.0083)
    assert verdict(a, b, replace(LOSS, scale="linear")).better is None
    assert verdict(a, b, LOSS).better == "a"
    assert verdict((0.0, *a), (0.0, *b), LOSS).scale == "linear"


def test_the_pairs_share_the_level_unless_it_is_said_how_many_do() -> None:
    outcomes = {"a": outcome(*A), "b": outcome(*B), "c": outcome(*reversed(A))}
    pairs = [("a", "b"), ("c", "b")]
    assert [v.confidence for v in judge(pairs, outcomes, ACCURACY)] == [0.975, 0.975]
    assert [v.confidence for v in judge(pairs, outcomes, ACCURACY, shared=1, level=0.1)] == [0.9, 0.9]
    assert [(v.first, v.second) for v in judge(pairs, outcomes, ACCURACY)] == pairs
    assert judge([], outcomes, ACCURACY) == ()


@pytest.mark.parametrize(("a", "b", "better"), [(A, B, "a"), (B, A, "b"), (A, A, None)])
def test_better_is_the_larger_or_the_smaller_as_the_metric_says(
    a: tuple[float, ...], b: tuple[float, ...], better: str | None
) -> None:
    assert verdict(a, b).better == better
    flipped = {"a": "b", "b": "a", None: None}[better]
    assert verdict(a, b, replace(ACCURACY, maximize=False)).better == flipped
    assert verdict(a, b, LOSS).better == flipped


def test_a_spread_below_one_example() -> None:
    within = verdict((90.0, 91.0, 92.0), (90.0, 91.0, 91.5), replace(ACCURACY, resolution=0.5))
    assert (within.floored, within.coarse, within.better, within.effect) == (True, True, None, None)
    far = verdict((90.0, 91.0, 92.0), (85.0, 86.0, 86.5), replace(ACCURACY, resolution=0.5))
    assert (far.floored, far.coarse, far.better, far.effect) == (True, False, "a", None)
    assert far.detectable == detectable_difference(0.5, 3)
    assert verdict(A, A).detectable is None


def test_who_lost_more_units_is_not_better() -> None:
    judged = verdict((99.0, 99.1, None), (90.0, 90.2, 90.0))
    assert judged.low is not None
    assert judged.low > 0
    assert (judged.better, judged.lost, judged.units) == (None, (1, 0), 2)
    assert verdict((99.0, 99.1, None), (90.0, 90.2, None)).better == "a"
    assert verdict((99.0, 99.1, 99.0), (90.0, 90.2, math.nan)).better == "a"
    assert verdict((99.0, 99.1, None, None), (90.0, 90.2, None, 90.0)).better is None


def test_a_lost_unit_ranks_below_all_others() -> None:
    assert verdict((3.0, 3.5, 2.0, 7.0), (1.0, 1.0, 1.0, None)).signed_rank_p == signed_rank_p(
        [2.0, 2.5, 1.0, math.inf]
    )
    assert verdict((3.0, 3.5, 2.0, None), (1.0, 1.0, 1.0, 7.0)).signed_rank_p == signed_rank_p(
        [2.0, 2.5, 1.0, -math.inf]
    )
    assert verdict((3.0, 3.5, 2.0, None), (1.0, 1.0, 1.0, None)).signed_rank_p == signed_rank_p([2.0, 2.5, 1.0, 0.0])
    both = verdict((-2.0, -2.0, 2.0, 2.0, None), (1.0, 1.0, 1.0, 1.0, None))
    assert both.signed_rank_p == signed_rank_p([-3.0, -3.0, 1.0, 1.0, 0.0]) == 0.75
    down = verdict((3.0, 3.5, 2.0, None), (1.0, 1.0, 1.0, 7.0), replace(ACCURACY, maximize=False))
    assert down.signed_rank_p == signed_rank_p([2.0, 2.5, 1.0, math.inf])
    assert verdict((None, None, None), (1.0, 1.0, 2.0)).signed_rank_p == 0.25


@pytest.mark.parametrize(
    ("a", "b", "units"),
    [((99.0,), (1.0,), 1), ((99.0, None), (1.0, 2.0), 1), ((None, None), (1.0, 2.0), 0), ((), (1.0,), 0)],
)
def test_fewer_than_two_shared_units_say_nothing(a: tuple[float, ...], b: tuple[float, ...], units: int) -> None:
    judged = verdict(a, b)
    assert (judged.better, judged.units) == (None, units)
    assert (judged.low, judged.high, judged.deviation, judged.effect, judged.detectable) == (None,) * 5
    assert judged.difference == (98.0 if units else None)


def test_times_to_the_target_are_compared_up_to_the_end_of_the_runs() -> None:
    never = math.inf
    a = outcome(1.0, 2.0, steps={1: 50.0, 2: 60.0}, seconds={1: 5.0, 2: 7.0}, horizon=100)
    b = outcome(1.0, 2.0, steps={1: never, 2: never}, seconds={1: never, 2: never}, horizon=200, step_seconds={1: 0.1})
    (judged,) = judge([("a", "b")], {"a": a, "b": b}, ACCURACY)
    assert judged.steps == TimeComparison(2, 2, 0, 0, 0.5, 55.0 / 200, "at most")
    assert judged.seconds is not None
    assert judged.seconds.ratio == pytest.approx(6.0 / 20.0)
    (back,) = judge([("b", "a")], {"a": a, "b": b}, ACCURACY)
    assert back.steps is not None
    assert (back.steps.ratio, back.steps.bound) == (200 / 55.0, "at least")
    (unknown,) = judge([("b", "a")], {"a": a, "b": replace(b, horizon=None, seconds={1: 0.0, 2: never})}, ACCURACY)
    assert unknown.steps is not None
    assert unknown.seconds is not None
    assert (unknown.steps.ratio, unknown.seconds.units) == (never, 1)


def test_the_two_best_are_chosen_by_validation_alone() -> None:
    def validated(*values: float | None, test: float = 0.0) -> Outcome:
        return Outcome({1: test}, dict(enumerate(values)))

    outcomes = {"a": validated(1.0, 2.0, test=9.0), "b": validated(3.0, 3.0), "c": validated(2.0, 2.0)}
    assert two_best(outcomes, ACCURACY) == ("b", "c")
    assert two_best(outcomes, replace(ACCURACY, maximize=False)) == ("a", "c")
    outcomes["d"] = validated(9.0, None)
    outcomes["e"] = validated(None, math.nan)
    assert two_best(outcomes, ACCURACY) == ("b", "c")
    assert two_best({name: outcomes[name] for name in "eda"}, ACCURACY) == ("a", "d")
    assert two_best({name: outcomes[name] for name in "ae"}, ACCURACY) is None
    assert two_best({"x": validated(1.0), "y": validated(1.0), "z": validated(1.0)}, ACCURACY) == ("x", "y")
    spread = {"a": validated(1.0, 100.0), "b": validated(20.0, 20.0), "c": validated(900.0)}
    assert two_best(spread, LOSS) == ("a", "b")  # geometric means 10 and 20
    assert two_best(spread, replace(LOSS, scale="linear")) == ("b", "a")


@pytest.mark.parametrize(
    ("pair", "arguments", "message"),
    [
        (("a", "a"), {}, "a pair must name two of a, b, not a and a"),
        (("a", "z"), {}, "not a and z"),
        (("a", "b"), {"level": 0.0}, "level must be in"),
        (("a", "b"), {"level": math.nan}, "level must be in"),
        (("a", "b"), {"shared": 0}, "at least one comparison"),
        (("a", "b"), {"unit": "run"}, "round or seed"),
    ],
)
def test_what_cannot_be_judged_is_refused(pair: tuple[str, str], arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge([pair], {"a": outcome(1.0), "b": outcome(2.0)}, ACCURACY, **arguments)  # type: ignore[arg-type]


tests = st.dictionaries(
    st.integers(1, 5), st.none() | st.sampled_from([0.0, 1.0, 1.1, 2.0, -3.0, 1e9, 1e-9, math.nan, math.inf])
)
metrics = st.builds(
    Metric,
    st.sampled_from(["accuracy %", "loss"]),
    st.booleans(),
    st.sampled_from(["linear", "log"]),
    st.sampled_from([0.0, 0.1, 2.0]),
)


@settings(deadline=None, max_examples=80)
@given(tests, tests, metrics, st.sampled_from([1, 66]), st.sampled_from(["round", "seed"]))
def test_better_is_said_exactly_where_the_interval_excludes_no_difference(
    a: dict[int, float | None], b: dict[int, float | None], metric: Metric, shared: int, unit: str
) -> None:
    outcomes = {"a": Outcome(a), "b": Outcome(b)}
    forward, back = judge([("a", "b"), ("b", "a")], outcomes, metric, shared=shared, unit=unit)
    assert (forward.better, forward.units, forward.coarse) == (back.better, back.units, back.coarse)
    assert forward.lost == back.lost[::-1]
    json.dumps(asdict(forward))
    for judged in (forward, back):
        assert judged.sentence
        assert "nan" not in judged.sentence + judged.details
        null = 1.0 if judged.scale == "log" else 0.0
        excluded = judged.low is not None and judged.high is not None and not judged.low <= null <= judged.high
        names = [judged.first, judged.second]
        ahead = (
            names[(judged.difference or 0.0) < null] if metric.maximize else names[(judged.difference or 0.0) > null]
        )
        entitled = excluded and judged.lost[names.index(ahead)] == min(judged.lost)
        assert judged.better == (ahead if entitled else None)
        assert (" is better than " in judged.sentence) == entitled


@pytest.mark.parametrize("rounds", [3, 5])
def test_equal_optimizers_are_called_better_as_often_as_the_level(rounds: int) -> None:
    generator, total, counts = random.Random(rounds), 300, {"a": 0, "b": 0}
    for _ in range(total):
        luck = [generator.gauss(80.0, 5.0) for _ in range(rounds)]
        a, b = (tuple(x + generator.gauss(0, 1) for x in luck) for _ in range(2))
        better = verdict(a, b).better
        if better is not None:
            counts[better] += 1
    false = sum(counts.values()) / total
    assert abs(false - 0.05) <= 3 * math.sqrt(0.05 * 0.95 / total)
    assert min(counts.values()) > 0  # either may win


def test_the_detectable_difference_is_detected_with_its_power() -> None:
    least = detectable_difference(1.0, 5, level=0.05 / 2)
    assert least is not None
    generator, total = random.Random(0), 250
    hits = 0
    for _ in range(total):
        a = tuple(generator.gauss(90.0 + least, 1.0) for _ in range(5))
        hits += verdict(a, (90.0,) * 5, shared=2).better == "a"
    assert abs(hits / total - 0.8) <= 3 * math.sqrt(0.8 * 0.2 / total)
