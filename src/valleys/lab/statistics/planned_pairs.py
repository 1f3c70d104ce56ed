"""The comparisons planned before any run: does E help the optimizer that it adapts?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from valleys.lab.optimizers.table import BASES
from valleys.lab.record import Record
from valleys.lab.statistics import TimeComparison, Verdict, compare_times, judge

__all__ = ["LEVEL", "Question", "questions"]

LEVEL = 0.05
"""Chance of any false answer among the questions of one comparison, shared out evenly (Bonferroni)."""


@dataclass(frozen=True)
class Question:
    """An adapted optimizer against its base.

    Args:
        adapted, base: the optimizer with E and without it.
        verdict: the answer by the test metric.
        steps: the answer by the steps to the target; None if no seed is shared.
        sentence: both in words.
    """

    adapted: str
    base: str
    verdict: Verdict
    steps: TimeComparison | None
    sentence: str


def questions(
    records: Mapping[str, Sequence[Record]],
    *,
    maximize: bool,
    metric: str,
    batch_size: int,
    step_seconds: Mapping[str, Mapping[int, float]],
) -> tuple[Question, ...]:
    """Test each adapted optimizer whose base takes part, in the order of ``records`` (runs on fresh seeds).

    These pairs do not depend on the results, so they pay for one another alone and not, as the leader's do, for every
    pair there is: with ten optimizers of which four are adapted, each is tested at 0.05 / 4 instead of 0.05 / 45.
    """
    bases = {name: next((base for base in BASES.get(name, ()) if base in records), None) for name in records}
    pairs = [(name, base) for name, base in bases.items() if base is not None]
    results = {name: {record.seed: record.test for record in runs} for name, runs in records.items()}
    tested = []
    for adapted, base in pairs:
        answer = judge(
            adapted,
            base,
            {name: results[name] for name in (adapted, base)},
            maximize=maximize,
            metric=metric,
            batch_size=batch_size,
            level=LEVEL / len(pairs),
            step_seconds=step_seconds,
        )
        steps = _steps(records[adapted], records[base])
        shared = f"; tested at level {LEVEL:g}/{len(pairs)}" * (len(pairs) > 1)
        tested.append(
            Question(adapted, base, answer, steps, f"{answer.sentence}{_words(adapted, base, steps)}{shared}")
        )
    return tuple(tested)


def _steps(adapted: Sequence[Record], base: Sequence[Record]) -> TimeComparison | None:
    times = [
        {record.seed: math.inf if record.steps_to_target is None else float(record.steps_to_target) for record in runs}
        for runs in (adapted, base)
    ]
    ended = max((record.steps for runs in (adapted, base) for record in runs if not record.diverged), default=None)
    return compare_times(*times, horizon=ended)


def _words(adapted: str, base: str, steps: TimeComparison | None) -> str:
    if steps is None:
        return ""
    if steps.ratio is None:
        return "; neither reaches the target on most seeds"
    bound = f"{steps.bound} " * bool(steps.bound)
    ahead = f"{adapted} sooner on {steps.sooner}, {base} on {steps.later} of {steps.pairs} seeds"
    return f"; {adapted} takes {bound}{steps.ratio:.2g} times the steps of {base} to the target ({ahead})"
