from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valleys.lab.report.document import plain
from valleys.lab.statistics import Verdict, detectable_difference, hedges_g, holm, judge, paired_difference, verdict

BASE = (90.0, 90.3, 90.1, 90.2, 90.4)


def runs(*values: float | None) -> dict[int, float | None]:
    return dict(enumerate(values))


def measured(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def found(results: Mapping[str, Mapping[int, float | None]], *, maximize: bool = True) -> Verdict:
    return verdict(results, maximize=maximize, metric="m", batch_size=4)


def test_the_leader_is_the_better_whichever_way_the_metric_points_and_leads_are_positive() -> None:
    outcome = found({"a": runs(1.0, 1.1, 1.2), "b": runs(0.5, 0.6001, 0.7002)}, maximize=False)
    assert outcome.leader == "b"
    rival = outcome.rivals[0]
    assert rival.beaten
    assert rival.difference is not None
    assert rival.difference.mean == pytest.approx(0.4999)
    assert rival.effect is not None
    assert rival.effect.low is not None
    assert rival.effect.low > 0


def test_correction_is_over_all_pairs_and_of_both_tests() -> None:
    values = {
        "a": (5.0, 5.1, 5.2, 5.0),
        "b": (4.0, 4.15, 4.17, 5.1),
        "c": (3.0, 3.11, 3.25, 3.0),
    }
    outcome = found({name: runs(*row) for name, row in values.items()})
    pairs = [
        paired_difference(measured(*values[x]), measured(*values[y])) for x, y in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    raw = [pair.p for pair in pairs if pair is not None and pair.p is not None]
    wilcoxon = [pair.wilcoxon_p for pair in pairs if pair is not None and pair.wilcoxon_p is not None]
    assert len(raw) == len(wilcoxon) == 3
    assert [rival.name for rival in outcome.rivals] == ["b", "c"]
    assert [rival.p for rival in outcome.rivals] == pytest.approx(holm(raw)[:2])
    assert [rival.wilcoxon_p for rival in outcome.rivals] == pytest.approx(holm(wilcoxon)[:2])
    assert "Holm" in outcome.sentence


def test_a_rival_carries_effect_size_and_what_could_have_been_seen() -> None:
    values = {"a": BASE, "b": (89.9, 90.4, 90.0, 90.0, 90.3), "c": (89.0, 89.1, 89.3, 89.2, 89.2)}
    outcome = found({name: runs(*row) for name, row in values.items()})
    assert outcome.leader == "a"
    for rival in outcome.rivals:
        a, b = measured(*BASE), measured(*values[rival.name])
        assert rival.effect == hedges_g(a, b)
        assert rival.difference is not None
        assert rival.difference.deviation is not None
        assert rival.detectable == detectable_difference(rival.difference.deviation, 5, level=0.05 / 3)


def test_few_seeds_leave_out_what_they_cannot_say() -> None:
    (one,) = found({"a": runs(99.0), "b": runs(1.0)}).rivals
    assert (one.beaten, one.p, one.wilcoxon_p, one.effect, one.detectable) == (False, None, None, None, None)
    (two,) = found({"a": runs(99.0, 98.0), "b": runs(1.0, 2.0)}).rivals
    assert two.effect is None
    assert two.detectable is not None
    (alike,) = found({"a": runs(1.0, 2.0, 3.0), "b": runs(1.0, 2.0, 3.0)}).rivals
    assert alike.detectable is None


def test_a_pair_without_shared_seeds_is_no_test() -> None:
    outcome = found({"a": runs(5.0, 5.1, 5.2), "b": runs(4.0, 4.15, 4.17), "c": {7: 3.0, 8: 3.0, 9: 3.0}})
    assert [rival.name for rival in outcome.rivals] == ["b", "c"]
    first, last = outcome.rivals
    assert first.difference is not None
    assert first.p == first.difference.p  # one test alone is not corrected
    assert first.detectable is not None
    assert first.detectable.level == 0.05
    assert (last.difference, last.p, last.detectable, last.beaten) == (None, None, None, False)


def test_equal_optimizers_are_told_apart_no_more_often_than_the_level() -> None:
    """The leader is picked by its result, and the seeds share some of their luck."""
    generator = random.Random(1)
    total, false = 500, 0
    for _ in range(total):
        luck = [generator.gauss(0, 1) for _ in range(4)]
        results = {name: runs(*(x + generator.gauss(0, 1) for x in luck)) for name in "abcd"}
        false += any(rival.beaten for rival in found(results).rivals)
    assert false / total <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / total)


def test_a_judged_pair_of_equals_is_told_apart_exactly_as_often_as_the_level() -> None:
    generator = random.Random(2)
    total, false, ways = 1500, 0, {"a": 0, "b": 0}
    for _ in range(total):
        results = {name: runs(*(generator.gauss(0, 1) for _ in range(4))) for name in "ab"}
        outcome = judge("a", "b", results, maximize=True, metric="m", batch_size=1)
        if outcome.rivals[0].beaten:
            false += 1
            ways[str(outcome.leader)] += 1
    assert abs(false / total - 0.05) <= 3 * math.sqrt(0.05 * 0.95 / total)
    assert min(ways.values()) > false / 4  # either may win


def test_a_judged_pair_is_not_corrected_whoever_else_took_part() -> None:
    results = {
        "alto": runs(90.5, 91.4, 92.45),
        "lamb": runs(90.0, 91.0, 92.0),
        "lion": runs(95.0, 96.0, 97.0),
        "dead": {},
    }
    judged = judge("alto", "lamb", results, maximize=True, metric="%", batch_size=4)
    difference = paired_difference(measured(90.5, 91.4, 92.45), measured(90.0, 91.0, 92.0))
    assert difference is not None
    assert judged.leader == "alto"
    assert [rival.name for rival in judged.rivals] == ["lamb"]
    assert judged.rivals[0].p == difference.p
    assert judged == judge("lamb", "alto", results, maximize=True, metric="%", batch_size=4)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [("a", "a", "against itself"), ("a", "z", "no results of z: there are a, b"), ("y", "z", "no results of y, z")],
)
def test_a_pair_that_cannot_be_judged_is_refused(a: str, b: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(a, b, {"a": runs(1.0), "b": runs(2.0)}, maximize=True, metric="m", batch_size=1)


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan])
def test_a_level_out_of_range_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        verdict({"a": runs(1.0)}, maximize=True, metric="m", batch_size=1, level=level)


def test_the_level_decides() -> None:
    results = {"a": runs(1.0, 1.3, 1.9), "b": runs(0.8, 1.0, 1.4)}
    (rival,) = found(results).rivals
    assert rival.p is not None
    assert 0.05 < rival.p < 0.1
    assert not rival.beaten
    loose = verdict(results, maximize=True, metric="m", batch_size=4, level=0.1).rivals[0]
    assert loose.beaten
    assert loose.detectable is not None
    assert loose.detectable.level == 0.1


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.dictionaries(
            st.integers(0, 4), st.none() | st.sampled_from([0.0, 1.0, 1.1, 2.0, -3.0, 1e9, math.nan, math.inf])
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_every_verdict_is_strict_json(results: dict[str, dict[int, float | None]], maximize: bool) -> None:
    outcome = found(results, maximize=maximize)
    document = json.loads(json.dumps(plain(asdict(outcome)), allow_nan=False))
    assert document["sentence"] == outcome.sentence
    assert [rival["name"] for rival in document["rivals"]] == [rival.name for rival in outcome.rivals]
    everyone = {outcome.leader, *(rival.name for rival in outcome.rivals)}
    assert outcome.leader is None or everyone == set(results)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(0, 100).map(lambda x: round(x, 2)), min_size=4, max_size=4), min_size=2, max_size=4))
def test_a_metric_and_its_negative_give_the_same_verdict(table: list[list[float]]) -> None:
    up = found({f"o{i}": runs(*row) for i, row in enumerate(table)})
    down = found({f"o{i}": runs(*(-value for value in row)) for i, row in enumerate(table)}, maximize=False)
    assert up == down
    renamed = found({f"o{i}": {99 - seed: value for seed, value in enumerate(row)} for i, row in enumerate(table)})
    assert (renamed.leader, [rival.beaten for rival in renamed.rivals]) == (
        up.leader,
        [rival.beaten for rival in up.rivals],
    )
