"""The questions fixed beforehand: which pairs, at which level, and what is said of the steps to the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lab_fakes import record
from valleys.hyperparameters import LARGE_BATCH
from valleys.lab.optimizers.table import BASES, entries
from valleys.lab.record import Record
from valleys.lab.statistics.planned_pairs import Question, questions

ASKED: dict[str, Any] = {"maximize": True, "metric": "test %", "batch_size": 64}


def runs(name: str, tests: Sequence[float | None], steps: Sequence[int | None] | None = None) -> list[Record]:
    return [
        record(
            optimizer=name,
            seed=seed,
            test=test,
            diverged=test is None,
            steps_to_target=None if steps is None else steps[seed],
            steps=100,
        )
        for seed, test in enumerate(tests)
    ]


def ask(records: dict[str, list[Record]], **changes: Any) -> dict[str, Question]:
    found = questions(records, **{**ASKED, "step_seconds": {}, **changes})
    return {question.adapted: question for question in found}


def test_every_adapted_optimizer_of_the_lab_has_a_base_that_is_known() -> None:
    table = entries(LARGE_BATCH)
    assert {*BASES, "alto-0"} == {name for name in table if name.startswith(("alto", "esgd", "eadam"))}
    for adapted, bases in BASES.items():
        assert set(bases) <= set(table)
        assert bases == ("alto-0", "lamb") or (adapted.removesuffix("-tuned"),) == (f"e{bases[0]}",)


def test_only_pairs_of_which_both_take_part_are_asked_in_the_order_of_the_records() -> None:
    names = ["adamw", "alto-tuned", "sgd", "lamb", "alto", "eadam"]
    assert list(ask({name: runs(name, [1.0, 2.0]) for name in names})) == ["alto-tuned", "alto"]
    assert ask({"sgd": runs("sgd", [1.0])}) == {}


def test_alto_without_e_is_a_better_base_than_lamb() -> None:
    made = {name: runs(name, [1.0, 2.0]) for name in ("lamb", "alto", "alto-0")}
    assert [(question.adapted, question.base) for question in ask(made).values()] == [("alto", "alto-0")]
    del made["alto-0"]
    assert [(question.adapted, question.base) for question in ask(made).values()] == [("alto", "lamb")]


def test_the_level_is_shared_out_among_the_questions() -> None:
    """A difference of p = 0.02 is established by itself, and not as one of four."""
    generator = np.random.default_rng(0)
    base = [90.0 + float(x) for x in generator.normal(size=5)]
    better = [x + 1 + d for x, d in zip(base, (-0.6, 0.3, -0.2, 0.8, -0.3), strict=True)]
    pair = {"lamb": runs("lamb", base), "alto": runs("alto", better)}
    (alone,) = ask(pair).values()
    (rival,) = alone.verdict.rivals
    assert rival.p is not None
    assert 0.0125 < rival.p < 0.05
    assert alone.sentence.startswith("alto beats lamb by 1.00")
    four = {**pair, **{name: runs(name, base) for name in ("alto-strong", "alto-tuned", "adamw", "eadamw")}}
    assert ask(four)["alto"].sentence.startswith("no difference found between alto and lamb")
    assert ask(four)["alto"].sentence.endswith("tested at level 0.05/4")


def test_a_base_that_wins_is_said_to_win() -> None:
    pair = {"lamb": runs("lamb", [90.0, 91.0, 92.0]), "alto": runs("alto", [88.0, 89.1, 89.9])}
    (question,) = ask(pair, step_seconds={"lamb": {0: 0.1, 1: 0.1}, "alto": {0: 0.12, 1: 0.12}}).values()
    assert question.sentence.startswith("lamb beats alto by 2.00")
    assert "costs 17% less time per step" in question.sentence


@pytest.mark.parametrize(
    ("adapted", "base", "said"),
    [
        (
            [50, 60, 55],
            [100, 120, 110],
            "alto takes 0.5 times the steps of lamb to the target (alto sooner on 3, lamb on 0",
        ),
        ([50, 60, 55], [None, 90, None], "alto takes at most 0.55 times"),
        ([None, None, 55], [50, 50, 50], "alto takes at least 2 times"),
        ([None, None, None], [None, None, 50], "neither reaches the target on most seeds"),
    ],
)
def test_the_steps_to_the_target_count_a_miss_as_infinite(
    adapted: list[int | None], base: list[int | None], said: str
) -> None:
    tests: list[float | None] = [90.0, 91.0, 92.0]
    (question,) = ask({"lamb": runs("lamb", tests, base), "alto": runs("alto", tests, adapted)}).values()
    assert said in question.sentence


def test_no_seed_in_common_and_runs_that_diverged() -> None:
    base, adapted = runs("lamb", [90.0, 91.0]), [replace(r, seed=r.seed + 9) for r in runs("alto", [90.0, 91.0])]
    (question,) = ask({"lamb": base, "alto": adapted}).values()
    assert question.steps is None
    (question,) = ask({"lamb": base, "alto": runs("alto", [None, None])}).values()
    assert "no other optimizer finished a run" in question.sentence
