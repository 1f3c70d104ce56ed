"""Our numbers from finished runs, beside the paper's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import lab_fakes
from paper.reproductions import of
from valleys.lab import Record
from valleys.lab.record import Evaluation
from valleys.paper.results import Ran, Reproduction, contrasts, outcome
from valleys.paper.tables.model import Cell, Method, Setting
from valleys.paper.tables.numbers import find


def test_ours_stands_beside_the_papers_with_its_interval(whole: Reproduction) -> None:
    alto = of(whole, "ALTO")
    assert dict(alto.values) == {5000: 93.0, 5001: 94.0, 5002: 95.0}
    half_width = 4.302652729749464 / 3**0.5  # t of 2 degrees of freedom, standard deviation 1
    assert alto.mean == pytest.approx(94.0)
    assert alto.half_width == pytest.approx(half_width)
    assert alto.difference == pytest.approx(94.0 - 91.24)
    assert [alto.low, alto.high] == pytest.approx([2.76 - half_width, 2.76 + half_width])
    assert (alto.blank, alto.same, alto.runs) == ("", False, 3)
    assert [o.cell.column for o in whole.outcomes] == ["SGD", "Adam", "AdamW", "LAMB", "AdaBelief", "ALTO"]


def test_runs_that_diverge_are_counted_and_left_out(whole: Reproduction) -> None:
    result = whole
    adam = of(result, "Adam")
    assert (dict(adam.values), adam.runs) == ({5000: 89.0, 5002: 91.0}, 3)
    assert "1 of 3 runs diverged" in result.paths["markdown"].read_text()


def test_orders_are_paired_and_have_a_sign(whole: Reproduction) -> None:
    result = whole
    orders = {c.second: c for c in result.contrasts}
    assert list(orders) == ["SGD", "Adam", "AdamW", "LAMB", "AdaBelief"]
    sgd, lamb, adam = orders["SGD"], orders["LAMB"], orders["Adam"]
    assert [sgd.paper, lamb.paper] == pytest.approx([91.24 - 91.85, 0.35])
    assert [sgd.sign, lamb.sign] == ["opposite"] * 2
    assert sgd.ours is not None
    assert (sgd.ours.mean, sgd.ours.pairs) == (2.0, 3)
    assert adam.ours is not None
    assert (adam.ours.pairs, adam.sign) == (2, "as in the paper")


SETTING, METHOD, SECOND = Setting("sine", 256), Method("A", "adam", ()), Method("B", "adam", ())


def ran(*values: float | None, second: tuple[float | None, ...] = ()) -> dict[Setting, Ran]:
    """Runs of two methods that end at these values, None for one that diverged."""

    def records(name: str, ends: tuple[float | None, ...]) -> tuple[Record, ...]:
        return tuple(
            lab_fakes.record(
                optimizer=name,
                seed=seed,
                test=end,
                diverged=end is None,
                steps=100,
                curve=[Evaluation(50, 3.0, 1.0, 10.0), Evaluation(100, 6.0 + seed, 1.0, 20.0 if end is None else end)],
            )
            for seed, end in enumerate(ends)
        )

    runs = {"A": records("A", values), "B": records("B", second)}
    return {SETTING: Ran("a problem", True, epochs=10, target=40.0, records=runs)}


def place(measure: Any = "test", value: float | None = 1.0, **changes: Any) -> Cell:
    return Cell("r", "c", value, SETTING, METHOD, measure, **changes)


def test_one_value_has_no_interval() -> None:
    result = outcome(place(), ran(5.0))
    assert (result.mean, result.half_width, result.difference, result.low, result.high) == (5.0, None, 4.0, None, None)


def test_a_cell_of_which_all_runs_diverged_is_blank() -> None:
    result = outcome(place(), ran(None, None))
    assert (result.mean, result.runs, result.blank) == (None, 2, "all 2 runs diverged")


def test_seconds_and_epochs_are_those_of_the_first_crossing() -> None:
    assert dict(outcome(place("seconds", level=50.0), ran(60.0, 70.0)).values) == {0: 6.0, 1: 7.0}
    assert dict(outcome(place("seconds", level=10.0), ran(60.0, 70.0)).values) == {0: 3.0, 1: 3.0}
    assert dict(outcome(place("epochs"), ran(60.0)).values) == {0: 10.0}  # the task's target, 40, after all 10 epochs
    assert outcome(place("seconds", level=10.0), ran(60.0)).difference is None


def test_a_run_that_misses_the_level_blanks_the_cell() -> None:
    result = outcome(place("seconds", level=65.0), ran(60.0, 70.0))
    assert (result.mean, result.blank) == (None, "1 of 2 runs of batch 16 never came to 65")
    ratio = place("time ratio", level=65.0, against=(SETTING, SECOND))
    assert "1 of 2 runs" in outcome(ratio, ran(70.0, 70.0, second=(60.0, 70.0))).blank


def test_a_metric_to_be_small_is_reached_from_above() -> None:
    result = ran(5.0)
    down = {SETTING: replace(result[SETTING], maximize=False)}
    assert dict(outcome(place("seconds", level=7.0), down).values) == {0: 6.0}


def test_ratios_are_of_the_same_seed() -> None:
    ratio = place("time ratio", value=0.5, level=50.0, against=(SETTING, SECOND))
    result = outcome(ratio, ran(60.0, 70.0, second=(5.0, 70.0)))
    assert result.blank == "1 of 2 runs of batch 16 never came to 50"
    result = outcome(ratio, ran(60.0, 70.0, second=(60.0, 70.0, 70.0)))
    assert (dict(result.values), result.difference) == ({0: 1.0, 1: 1.0}, 0.5)


def test_no_order_without_numbers() -> None:
    table = replace(find("table-3"), cells=(), contrasts=(("A", "B"),))
    a = outcome(replace(place(value=None), column="A"), ran(5.0, 6.0, second=(4.0, 9.0)))
    b = outcome(replace(place(value=None), column="B", method=SECOND), ran(5.0, 6.0, second=(4.0, 9.0)))
    (result,) = contrasts(table, [a, b])
    assert (result.paper, result.sign) == (None, "")
    paper = [replace(one, cell=replace(one.cell, value=value)) for one, value in ((a, 2.0), (b, 1.0))]
    assert contrasts(table, paper)[0].sign == "undecided"
