"""Selection, averages and verdicts over rounds."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest

from lab.report.pages import diverged, finals, results, run, trials
from valleys.lab.optimizers.spec import OptimizerSpec, Range
from valleys.lab.record import Record
from valleys.lab.report.summary import lines, summarize
from valleys.lab.statistics import mean_interval, paired_difference
from valleys.lab.store.job import Key, Results

LOSS: dict[str, Any] = {"maximize": False, "scale": "log", "metric": "loss"}


def loss(name: str, *values: float) -> list[Record]:
    return [run(name, 92.0, test=value, validation=value) for value in values]


def grown(contents: Results, name: str, key: Key, record: Record, phase: str = "final") -> Results:
    """The same results with one more run, or another one in its place."""
    runs = getattr(contents, phase)
    changes: dict[str, Any] = {phase: {**runs, name: {**runs[name], key: replace(record, seed=key.seed)}}}
    return replace(contents, **changes)


def test_each_round_selects_its_own_trial_by_validation_alone() -> None:
    contents = results({"sgd": finals("sgd", 91.0, 92.0)}, {"sgd": trials("sgd", 80.0, 95.0, 90.0)})
    first = next(key for key in contents.tuning["sgd"] if (key.round, key.point) == (1, 0))
    better = run("sgd", 99.0, hyperparameters={"lr": 0.7, "c": 0.0}, test=0.0)
    contents = grown(contents, "sgd", first, better, "tuning")
    contents = grown(contents, "sgd", Key(1, 0, 15000), run("sgd", 50.0))
    summary = summarize(contents)
    assert [selection.point for selection in summary.selections["sgd"].values()] == [1, 0]
    assert summary.selected["sgd"] == ({"lr": 0.01, "c": 0.2}, {"lr": 0.7, "c": 0.0})
    assert [record.test for record in summary.records["sgd"]] == [89.0, 48.0]
    assert summary.outcomes["sgd"].test == {1: 89.0, 2: 48.0}


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_round_counts_once_however_many_seeds_it_has(scale: str) -> None:
    contents = results({"sgd": loss("sgd", 1.0, 2.0)}, {"sgd": loss("sgd", 1.0)}, **{**LOSS, "scale": scale})
    for number, value in ((0, 4.0), (1, 8.0)):
        contents = grown(
            contents, "sgd", Key(number, 0, 10000 * number + 5001), run("sgd", 92.0, test=value, validation=3.0)
        )
    contents = replace(contents, configuration={**contents.configuration, "seeds": 2})
    mean = statistics.geometric_mean if scale == "log" else statistics.fmean
    summary = summarize(contents)
    assert summary.outcomes["sgd"].test == pytest.approx({1: mean([1.0, 4.0]), 2: mean([2.0, 8.0])})
    row = summary.rows[0]
    assert row.units == 2
    assert row.test is not None
    assert row.test.estimate == pytest.approx(mean([mean([1.0, 4.0]), mean([2.0, 8.0])]))
    assert row.validation is not None
    assert row.validation.estimate == pytest.approx(mean([mean([1.0, 3.0]), mean([2.0, 3.0])]))


def test_a_round_is_lost_with_all_its_trials_or_with_one_of_its_fresh_runs() -> None:
    contents = results({"sgd": finals("sgd", 80.0, None, 82.0, 84.0)}, {"sgd": trials("sgd", 90.0, 91.0)})
    contents = replace(
        contents, final={"sgd": {key: run_ for key, run_ in contents.final["sgd"].items() if key.round != 2}}
    )
    for point in (0, 1):
        contents = grown(contents, "sgd", Key(2, point, 20000 + point), diverged("sgd"), "tuning")
    summary = summarize(contents)
    (row,) = summary.rows
    assert summary.outcomes["sgd"].test == {1: 78.0, 2: None, 3: None, 4: 82.0}
    assert (row.units, row.lost, row.diverged_trials, row.trials) == (4, 2, 2, 8)
    assert row.test is not None
    assert row.test.estimate == 80.0
    assert summary.selected["sgd"][2] is None
    assert summary.outcomes["sgd"].steps[3] == math.inf


def test_a_fresh_run_that_diverges_loses_the_round_of_the_others() -> None:
    contents = results({"sgd": finals("sgd", 80.0, 81.0)})
    for number, record in ((0, run("sgd", 82.0)), (1, diverged("sgd"))):
        contents = grown(contents, "sgd", Key(number, 0, 10000 * number + 5001), record)
    contents = replace(contents, configuration={**contents.configuration, "seeds": 2})
    assert summarize(contents).outcomes["sgd"].test == {1: 79.0, 2: None}
    assert summarize(contents).outcomes["sgd"].validation == {1: 80.0, 2: None}


def test_a_test_metric_that_is_no_number_loses_the_round() -> None:
    contents = results({"sgd": [run("sgd", 91.0, test=math.inf), run("sgd", 91.0, test=math.nan), run("sgd", 91.0)]})
    assert summarize(contents).outcomes["sgd"].test == {1: None, 2: None, 3: 89.0}


def test_a_round_counts_when_all_optimizers_have_all_its_runs() -> None:
    whole = results({"sgd": finals("sgd", 80.0, 81.0, 82.0), "alto": finals("alto", 90.0, 91.0, 93.0)})
    two = results({"sgd": finals("sgd", 80.0, 81.0), "alto": finals("alto", 90.0, 91.0)})
    fresh = {name: {key: r for key, r in runs.items() if key.round < 2} for name, runs in whole.final.items()}
    tuned = {"sgd": whole.tuning["sgd"], "alto": {k: r for k, r in whole.tuning["alto"].items() if k.round < 2}}
    for part in (
        replace(whole, final={**whole.final, "sgd": fresh["sgd"]}),  # a fresh run is missing
        replace(whole, final={**whole.final, "alto": fresh["alto"]}, tuning=tuned),  # trials are
    ):
        summary = summarize(part)
        assert summary.outcomes == summarize(two).outcomes
        assert summary.notes[0] == "2 of 3 rounds are complete; the others are left out"
    assert summarize(whole).outcomes["sgd"].test.keys() == {1, 2, 3}
    second = grown(whole, "sgd", Key(0, 0, 5001), run("sgd", 85.0))  # of two seeds; everything else has one
    second = grown(second, "alto", Key(0, 0, 5001), run("alto", 85.0))
    seeds = summarize(replace(second, configuration={**second.configuration, "seeds": 2}))
    assert seeds.outcomes["sgd"].test == {1: (78.0 + 83.0) / 2}
    none = summarize(replace(whole, final={"sgd": {}, "alto": {}}))
    assert [row.units for row in none.rows] == [0, 0]
    assert none.verdicts == ()


def test_more_rounds_leave_the_earlier_ones_as_they_were() -> None:
    few = summarize(results({"sgd": finals("sgd", 80.0, 81.0)}))
    many = summarize(results({"sgd": finals("sgd", 80.0, 81.0, 82.0, None)}))
    assert {unit: many.outcomes["sgd"].test[unit] for unit in (1, 2)} == few.outcomes["sgd"].test


def test_superseded_runs_are_left_out() -> None:
    contents = results({"sgd": finals("sgd", 91.0, 92.0)}, {"sgd": trials("sgd", 80.0, 95.0)})
    assert summarize(grown(contents, "sgd", Key(1, 0, 15000), run("sgd", 99.0))).rows == summarize(contents).rows


def test_with_one_round_the_fresh_seeds_are_the_units() -> None:
    contents = results(
        {"sgd": finals("sgd", 80.0, 81.0, None), "lamb": finals("lamb", 82.0, 84.0, 85.0)}, one_round=True
    )
    summary = summarize(contents)
    assert summary.outcomes["sgd"].test == {1: 78.0, 2: 79.0, 3: None}
    (verdict,) = summary.verdicts
    assert (verdict.unit, verdict.units) == ("seed", 2)
    assert any("one round" in note for note in summary.notes)
    nothing = summarize(replace(contents, tuning={**contents.tuning, "sgd": {Key(0, 0, 0): diverged("sgd")}}))
    assert nothing.outcomes["sgd"].test == {1: None, 2: None, 3: None}


def test_seeds_of_salted_copies_pair_by_their_number() -> None:
    contents = results({"a": finals("a", 80.0, 81.0, 83.0), "b": finals("b", 82.0, 84.0, 85.0)}, one_round=True)
    salted = {Key(k.round, k.point, k.seed + (1 << 40)): run_ for k, run_ in contents.final["b"].items()}
    assert summarize(replace(contents, final={**contents.final, "b": salted})).verdicts == summarize(contents).verdicts


def test_planned_pairs_share_the_level() -> None:
    runs = {
        "sgd": finals("sgd", 80.0, 81.0, 83.0),
        "lamb": finals("lamb", 82.0, 84.0, 84.5),
        "alto": finals("alto", 95.0, 95.5, 96.5),
    }
    contents = results(runs, changes={"planned": [("alto", "lamb"), ("lamb", "sgd"), ("alto", "gone")]})
    summary = summarize(contents)
    assert [(verdict.first, verdict.second) for verdict in summary.verdicts] == [("alto", "lamb"), ("lamb", "sgd")]
    expected = paired_difference(summary.outcomes["alto"].test, summary.outcomes["lamb"].test, confidence=0.975)  # type: ignore[arg-type]
    assert expected is not None
    assert expected.half_width is not None
    assert summary.verdicts[0].confidence == 0.975
    assert summary.verdicts[0].low == pytest.approx(expected.mean - expected.half_width)


def test_without_a_plan_the_two_best_by_validation_are_compared() -> None:
    """The test metric has no say: made worst, it leaves the pair."""
    runs = {"sgd": finals("sgd", 80.0, 81.0), "lamb": finals("lamb", 92.0, 94.0), "alto": finals("alto", 95.0, 95.5)}
    worst = {name: [replace(one, test=1.0 + k) for one in runs[name]] for k, name in enumerate(runs)}
    worst["alto"] = [replace(one, test=0.0) for one in worst["alto"]]
    for contents in (results(runs), results(worst)):
        (verdict,) = summarize(contents).verdicts
        assert (verdict.first, verdict.second) == ("alto", "lamb")
        assert verdict.confidence == 0.95
    assert summarize(results({"sgd": runs["sgd"]})).verdicts == ()


def test_rows_come_by_fewest_lost_rounds_and_then_by_the_mean() -> None:
    runs = {
        "lossy": finals("lossy", 99.0, 99.0, None),
        "low": finals("low", 80.0, 80.0, 80.0),
        "high": finals("high", 90.0, 90.0, 90.0),
        "gone": finals("gone", None, None, None),
    }
    assert [row.optimizer for row in summarize(results(runs)).rows] == ["high", "low", "lossy", "gone"]
    small = {name: loss(name, *values) for name, values in {"a": (4.0, 0.01), "b": (1.0, 1.0)}.items()}
    assert [row.optimizer for row in summarize(results(small, **LOSS)).rows] == ["a", "b"]
    assert [row.optimizer for row in summarize(results(small, **{**LOSS, "scale": "linear"})).rows] == ["b", "a"]


def test_a_missed_target_counts_as_infinite() -> None:
    def row(*steps: int | None) -> Any:
        runs = [
            run("sgd", 91.0, steps_to_target=step, seconds_to_target=None if step is None else step / 10)
            for step in steps
        ]
        return summarize(results({"sgd": runs})).rows[0]

    assert (row(10, 30, None).steps, row(10, 30, None).seconds, row(10, 30, None).reached) == (30, 3.0, 2)
    assert row(10, None, None).steps is None
    assert row(10, None).steps is None
    assert row(10, 20).steps == 15


def test_the_interval_of_a_row_is_students_over_rounds() -> None:
    row = summarize(results({"sgd": finals("sgd", 80.0, 82.0, 85.0)})).rows[0]
    mean, half = mean_interval([78.0, 80.0, 83.0])
    assert row.test is not None
    assert half is not None
    assert (row.test.estimate, row.test.low, row.test.high) == pytest.approx((mean, mean - half, mean + half))


def test_the_budget_curve_ends_at_the_selected_trials_and_diverged_ones_are_worst_of_all_optimizers() -> None:
    runs = {"sgd": finals("sgd", 91.0, 91.0), "lamb": finals("lamb", 91.0, 91.0)}
    tuning = {"sgd": trials("sgd", 80.0, None), "lamb": trials("lamb", 31.0, 91.0)}
    summary = summarize(results(runs, tuning))
    tests = {"sgd": 78.0, "lamb": 89.0}  # two below the final validation
    for name, points in summary.budget.items():
        assert [point.trials for point in points] == [1, 2]
        assert points[-1].mean == pytest.approx(tests[name])
    assert summary.budget["sgd"][0].mean == pytest.approx((78.0 + 29.0) / 2)
    assert summarize(results(runs, space={})).budget == {}
    assert summarize(results({"sgd": []}, {"sgd": trials("sgd", None)})).budget == {}


def test_times_of_optimizers_that_ran_on_other_days_are_not_compared() -> None:
    runs = {
        name: [replace(one, ended=ended + k) for k, one in enumerate(finals(name, 91.0, 92.0))]
        for name, ended in (("sgd", 0.0), ("lamb", 100.0), ("late", 1e6))
    }
    outcomes = summarize(results(runs)).outcomes
    assert [bool(outcomes[name].step_seconds) for name in runs] == [True, True, False]


def test_notes_say_what_a_reader_should_know() -> None:
    def notes(contents: Results, *warnings: str) -> list[str]:
        return list(summarize(contents, warnings).notes)

    three = results({"sgd": finals("sgd", 80.0, 81.0, 82.0)}, space={"lr": Range(1e-4, 1.0)})
    assert notes(three, "earlier") == ["earlier"]
    edge = results({"sgd": finals("sgd", 80.0, 81.0, 82.0)}, space={"lr": Range(1e-4, 0.1)})
    assert notes(edge) == [
        "sgd: selected at the edge of its range, so that a better value may lie outside: lr (0.0001 to 0.1) in 3 of 3 "
        "rounds"
    ]
    (note,) = notes(replace(three, plans=2))
    assert "a pair chosen after results were seen is not planned" in note
    two = results({"sgd": finals("sgd", 80.0, 81.0)}, space={"lr": Range(1e-4, 1.0)})
    assert notes(two) == ["2 rounds make wide intervals; use at least 3"]
    one = results({"sgd": finals("sgd", 80.0)}, space={"lr": Range(1e-4, 1.0)})
    assert [note.split(":")[0] for note in notes(one)] == ["one round", "one run per optimizer"]
    fixed = results({"sgd": finals("sgd", 80.0, 81.0)}, space={}, one_round=True)
    assert notes(fixed) == []
    errors = loss("sgd", 0.0, 1.0, 2.0)
    (note,) = notes(results({"sgd": errors}, space={}, **{**LOSS, "resolution": 0.5}))
    assert note.startswith("2 values of loss are below half an example's worth and count as that (0.25)")
    assert notes(results({"sgd": errors}, space={}, **{**LOSS, "resolution": 0.5, "scale": "linear"})) == []


def test_a_line_of_python_has_the_values_of_the_last_round_that_has_any() -> None:
    contents = results({"sgd": finals("sgd", 80.0, 81.0)})
    last = grown(contents, "sgd", Key(1, 0, 10000), run("sgd", 92.0, hyperparameters={"lr": 0.7, "c": 0.0}), "tuning")
    lost = grown(contents, "sgd", Key(1, 0, 10000), diverged("sgd"), "tuning")

    def build(*_: Any) -> Any:
        raise AssertionError

    spec = OptimizerSpec(
        "sgd", build, {}, line=lambda values, plan: f"SGD({values['lr']}, {plan.batch_size}, {plan.steps})"
    )
    assert lines([spec], summarize(last), 16) == {"sgd": "SGD(0.7, 16, 20)"}
    assert lines([spec], summarize(lost), 16) == {"sgd": "SGD(0.1, 16, 20)"}
    assert lines([replace(spec, line=None)], summarize(lost), 16) == {}
    hopeless = results({"sgd": []}, {"sgd": trials("sgd", None)})
    assert lines([spec], summarize(hopeless), 16) == {}
